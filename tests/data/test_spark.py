"""Spark prepares what DuckDB prepares, row for row; and says what is wrong in one error."""

import csv
import json
import os
import shutil
import subprocess
import sys
import warnings

import check_shapes
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from finerank.data.prepare import prepare
from finerank.errors import FinerankError
from finerank.recipe import Recipe

PROGRAM = [sys.executable, "-c", "from finerank.cli import main; main()"]
PREPARE = [*PROGRAM, "prepare", "recipe.json", "--out", "out", "--engine", "spark"]
JAVA = shutil.which("java") is not None or "JAVA_HOME" in os.environ
pytestmark = [
    pytest.mark.skipif(not JAVA, reason="Spark needs Java 17, and there is no java here"),
    pytest.mark.xdist_group("spark"),  # one session for all of them
]
SMALL = {  # what is quick for some hundred rows
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        from pyspark.sql import SparkSession  # noqa: PLC0415

        builder = SparkSession.builder.master("local[2]")
        for name, value in SMALL.items():
            builder = builder.config(name, value)
        folder = tmp_path_factory.mktemp("spark")
        builder = builder.config("spark.sql.warehouse.dir", str(folder / "warehouse"))
        session = builder.config("spark.local.dir", str(folder)).getOrCreate()
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


@pytest.fixture
def folder(session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, rows, kind):
    """Rows as two files of a kind, in a folder."""
    path.mkdir()
    half = len(rows) // 2
    for name, part in (("a", rows[:half]), ("b", rows[half:])):
        file = path / f"{name}.{kind}"
        if kind == "csv":
            with file.open("w", newline="") as opened:
                writer = csv.DictWriter(opened, part[0], extrasaction="ignore")
                writer.writeheader()
                writer.writerows(part)
        elif kind == "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in part))
        elif kind == "arrow":
            pa.feather.write_feather(pa.Table.from_pylist(part), file, compression="lz4")
        else:
            pq.write_table(pa.Table.from_pylist(part), file)
    return str(path)


def recipe_of(folder, shape, kind):
    settings, log = check_shapes.SHAPES[shape], check_shapes.events(1)
    settings = json.loads(json.dumps(settings))
    change = {"moments": check_shapes.moments, "events dates": check_shapes.dates}.get(shape, list)
    log = change(log)
    if kind == "csv":
        log = [{k: v for k, v in row.items() if k not in ("words", "vector")} for row in log]
    if shape == "files":
        parts = {"train": log[:90], "valid": log[90:120], "test": log[120:]}
        for name, rows in parts.items():
            settings["split"][name] = write(folder / name, rows, kind)
    else:
        settings["log"]["path"] = write(folder / "log", log, kind)
    for name, rows in (("users", check_shapes.USERS), ("items", check_shapes.ITEMS)):
        if name in settings:
            settings[name]["path"] = write(folder / name, rows, "parquet")
    return Recipe.parse(settings)


def arrow(path):
    with pa.ipc.open_file(path) as file:
        return file.read_all()


def files(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def check_equal(one, other, *, ordered):
    assert files(one) == files(other)
    for name in sorted(files(one)):
        if name == "manifest.json":
            continue
        if name.endswith(".json"):
            assert (one / name).read_text() == (other / name).read_text(), name
            continue
        found, expected = arrow(one / name), arrow(other / name)
        assert found.schema == expected.schema, name
        if ordered or name.split("/")[0] not in ("train", "valid", "test"):
            # as text: a NaN is a NaN
            assert str(found.to_pylist()) == str(expected.to_pylist()), name
    if not ordered:
        for split in ("train", "valid", "test"):
            assert rows(one / split) == rows(other / split)


def rows(folder):
    """Requests of one candidate each, with their candidates, in an order of their own."""
    pairs = zip(
        arrow(folder / "requests.arrow").drop(["first_candidate"]).to_pylist(),
        arrow(folder / "candidates.arrow").to_pylist(),
        strict=True,
    )
    return sorted(map(str, pairs))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ("time", "csv"),
        ("shares", "jsonl"),
        ("random", "parquet"),
        ("files", "arrow"),
        ("moments", "csv"),
        ("negatives before", "arrow"),
        ("events last", "jsonl"),
        ("events dates", "parquet"),
    ],
)
def test_as_duckdb(folder, shape, kind):
    recipe = recipe_of(folder, shape, kind)
    before = {each.name for each in folder.iterdir()}
    duckdb = prepare(recipe, folder / "duckdb")
    spark = prepare(recipe, folder / "spark", engine="spark")
    check_equal(spark.folder, duckdb.folder, ordered=shape != "files")
    assert {**spark.manifest, "seconds": 0} == {**duckdb.manifest, "seconds": 0}
    assert {each.name for each in folder.iterdir()} == {*before, "duckdb", "spark"}
    again = prepare(recipe, folder / "duckdb", engine="spark")
    assert again.unchanged


def test_ready_made_histories(folder):
    settings = {
        "log": {"user": "uid", "item": "iid", "time": "at"},
        "items": {"key": "iid"},
        "features": {
            "iid": {"side": "item", "type": "id"},
            "kind": {"side": "item", "type": "id"},
            "stars": {"side": "history", "type": "number"},
            "shop": {"side": "history", "type": "id"},
        },
        "histories": {
            "clicked": {
                "features": ["iid", "kind", "stars"],
                "lists": {"iid": "past", "stars": "past_stars"},
                "max_length": 3,
            },
            "viewed": {"lists": {"shop": "shops"}, "newest": "first", "separator": "|"},
        },
        "tasks": {"like": "rating >= 4"},
        "split": {"by": "time", "valid": 0.3, "test": 0.3},
    }
    log = [
        {
            **row,
            "past": list("abcz"[: row["at"] % 5]),
            "past_stars": [row["at"] + 0.5] * min(row["at"] % 5, 4),
            "shops": "| p|q.".join("xy"[: row["at"] % 3]),
        }
        for row in check_shapes.events(1)
    ]
    settings["log"]["path"] = write(folder / "log", log, "parquet")
    settings["items"]["path"] = write(folder / "items", check_shapes.ITEMS, "parquet")
    recipe = Recipe.parse(settings)
    duckdb, spark = (
        prepare(recipe, folder / "duckdb"),
        prepare(recipe, folder / "s", engine="spark"),
    )
    check_equal(spark.folder, duckdb.folder, ordered=True)
    assert {**spark.manifest, "seconds": 0} == {**duckdb.manifest, "seconds": 0}


def log_of(folder, **changes):
    settings = json.loads(json.dumps(check_shapes.SHAPES["last"]))
    path = write(folder / "log", check_shapes.events(1), "jsonl")
    settings["log"] |= {"path": path, **changes}
    return Recipe.parse(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"derive": {"before": "lag(at) OVER (ORDER BY at)"}, "examples": "before > 3"},
            r"engine spark: expected SQL over a row's own .* found LAG\(.at.\) OVER .*duckdb",
        ),
        (
            {"examples": "CAST(device AS INTEGER) > 3"},
            r"the recipe's tables: expected values that .* found Could not conv",
        ),
    ],
    ids=["a window", "a value that SQL can't take"],
)
def test_what_it_cannot(folder, changes, message):
    recipe = log_of(folder, **changes)
    with pytest.raises(FinerankError, match=message):
        prepare(recipe, folder / "out", engine="spark")
    assert {each.name for each in folder.iterdir()} == {"log"}


def test_a_file_that_is_broken(folder):
    """Not the first, whose schema is looked at beforehand."""
    recipe = log_of(folder)
    settings = recipe.model_dump(exclude_none=True)
    settings["log"]["path"] = write(folder / "broken", check_shapes.events(1), "parquet")
    whole = (folder / "broken" / "b.parquet").read_bytes()
    (folder / "broken" / "b.parquet").write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[-200:])
    with pytest.raises(FinerankError) as error:
        prepare(Recipe.parse(settings), folder / "out", engine="spark")
    assert "\n" not in str(error.value)
    assert not (folder / "out").exists()


def test_one_spark_in_a_process(folder):
    with pytest.raises(FinerankError, match=r"no master or memory .* found local\[7\], and a sess"):
        prepare(log_of(folder), folder / "out", engine="spark", spark_master="local[7]")


def test_master_beside_duckdb(folder):
    recipe = log_of(folder)
    with pytest.raises(FinerankError, match=r"spark_master: expected engine spark .* found duckdb"):
        prepare(recipe, folder / "out", spark_master="local[2]")
    with pytest.raises(FinerankError, match=r"engine: expected duckdb or spark, found 'flink'"):
        prepare(recipe, folder / "out", engine="flink")


def test_without_pyspark(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(FinerankError, match=r"expected pyspark.*Install finerank\[spark\] and Jav"):
        prepare(log_of(folder), folder / "out", engine="spark")


def test_from_the_command_line(tmp_path):
    """In a process of its own: no word of Spark on the terminal, nothing of it on disk."""
    recipe = recipe_of(tmp_path, "without keys", "parquet")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.model_dump(exclude_none=True)))
    (tmp_path / "conf").mkdir()
    small = "".join(f"{name} {value}\n" for name, value in SMALL.items())
    (tmp_path / "conf" / "spark-defaults.conf").write_text(small)
    before = {each.name for each in tmp_path.iterdir()}
    done = subprocess.run(
        [*PREPARE, "--spark-master", "local[2]", "--memory", "700MB"],
        cwd=tmp_path,
        env={**os.environ, "SPARK_CONF_DIR": str(tmp_path / "conf")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Prepared data set in out" in done.stdout
    assert "spark" not in (done.stdout + done.stderr).lower().replace("--engine spark", "")
    assert {each.name for each in tmp_path.iterdir()} == {*before, "out"}
    folder = prepare(recipe, tmp_path / "duckdb").folder
    check_equal(tmp_path / "out", folder, ordered=False)


def test_without_java(tmp_path):
    """In a process of its own: Java that runs already would do."""
    recipe = recipe_of(tmp_path, "without keys", "parquet")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.model_dump(exclude_none=True)))
    done = subprocess.run(
        PREPARE,
        cwd=tmp_path,
        env={**os.environ, "JAVA_HOME": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "expected a Spark that starts" in done.stderr
    assert "Install finerank[spark] and Java 17" in done.stderr
    assert "Traceback" not in done.stderr
