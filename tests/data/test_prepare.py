"""Preparing again, failing in the middle, the report, and input that is wrong."""

import json
import os
from pathlib import Path

import ibis
import pyarrow as pa
import pytest

from finerank.data import preparation
from finerank.data.dataset import Dataset
from finerank.data.engine import open_engine
from finerank.data.prepare import prepare
from finerank.errors import FinerankError
from finerank.recipe import Recipe

SETTINGS = {
    "log": {"user": "u", "item": "i", "time": "t"},
    "items": {"key": "i"},
    "features": {
        "u": {"side": "user", "type": "id"},
        "i": {"side": "item", "type": "id"},
        "tags": {"side": "item", "type": "ids", "separator": " "},
        "price": {"side": "item", "type": "number"},
        "hour": {"side": "context", "type": "number"},
    },
    "histories": {"clicked": {"features": ["i", "tags"], "where": "click = 1"}},
    "tasks": {"click": "click"},
    "split": {"by": "time", "valid": 0.2, "test": 0.2},
}
LOG = {
    "u": [1, 2, 1, 2, 1, 2, 1, 2, 1, 2],
    "i": ["a", "b", "c", "a", "b", "c", "a", "b", "c", "d"],
    "t": list(range(10)),
    "click": [1, 0, 1, 0, 1, 1, 0, 1, 1, 0],
    "hour": [0.1, 0.7, 0.3, 1 / 3, 2.5, 0.2, 9.0, 8.0, 7.0, 6.0],
    "text": list("vwxyzvwxyz"),
}
ITEMS = {"i": ["a", "b", "c"], "tags": ["x y", "y", None], "price": [1.0, 2.0, 4.0]}


@pytest.fixture
def make(workshop):
    """A recipe over LOG and ITEMS with some settings and columns of them changed."""

    def make_recipe(changes=(), log=None, items=None):
        settings = json.loads(json.dumps(SETTINGS))
        for key, value in dict(changes).items():
            *parents, last = key.split(".")
            target = settings
            for parent in parents:
                target = target[parent]
            target[last] = value
        tables = {"log": {**LOG, **(log or {})}, "items": {**ITEMS, **(items or {})}}
        return workshop.recipe(settings, **{k: pa.table(v) for k, v in tables.items()})

    return make_recipe


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }


def names(folder):
    return sorted(each.name for each in folder.iterdir())


def test_again_does_nothing(make, tmp_path, monkeypatch):
    recipe, out = make(), tmp_path / "out"
    first = prepare(recipe, out)
    assert not first.unchanged
    monkeypatch.setattr(preparation, "Preparation", None)
    for same in (
        recipe,
        recipe.override(["model.name=dnn", "training.epochs=1", "tasks.click.weight=3", "name=x"]),
    ):
        again = prepare(same, out)
        assert again.unchanged
        assert again.manifest == json.loads((out / "manifest.json").read_text())
        assert again.manifest["recipe"] == same.model_dump(exclude_none=True, mode="json")
        assert {**again.manifest, "recipe": 0} == {**first.manifest, "recipe": 0}


@pytest.mark.parametrize(
    "change", ["tasks.click.label=click = 0", "histories.clicked.max_length=2", "split.test=0.3"]
)
def test_another_recipe_is_prepared_anew(make, tmp_path, change):
    recipe, out = make(), tmp_path / "out"
    prepare(recipe, out)
    assert not prepare(recipe.override([change]), out).unchanged


@pytest.mark.parametrize("table", ["log", "items"])
def test_another_input_is_prepared_anew(make, tmp_path, table):
    recipe, out = make(), tmp_path / "out"
    prepare(recipe, out)
    file = Path(getattr(recipe, table).path)
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))
    assert not prepare(recipe, out).unchanged
    assert prepare(recipe, out).unchanged


def test_twice_gives_the_same_bytes(make, tmp_path):
    one, other = (prepare(make(), tmp_path / name).folder for name in ("one", "other"))
    assert contents(one) == contents(other)
    assert set(names(one)) == {
        *("encodings", "events", "items", "manifest.json", "test", "train", "users", "valid")
    }


def test_the_order_of_the_log_has_no_influence(make, tmp_path):
    order = [3, 9, 1, 7, 0, 5, 2, 8, 6, 4]
    other = {name: [column[place] for place in order] for name, column in LOG.items()}
    one = contents(prepare(make(), tmp_path / "one").folder)
    assert one == contents(prepare(make(log=other), tmp_path / "two").folder)


def test_a_data_set_of_another_format_is_replaced(make, tmp_path):
    prepare(make(), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({**manifest, "format": -1}))
    with pytest.raises(FinerankError, match=r"format -1\. Prepare it again"):
        Dataset(tmp_path / "out")
    assert not prepare(make(), tmp_path / "out").unchanged
    Dataset(tmp_path / "out")


@pytest.mark.parametrize("content", ["{}", '{"name": "my web app"}', "[", "[]"])
def test_a_manifest_of_something_else_is_not_replaced(make, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(content)
    with pytest.raises(FinerankError, match=r"whose manifest.json isn't one of finerank\. Choose"):
        prepare(make(), tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_text() == content


def test_something_else_is_not_replaced(make, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(FinerankError, match=r"found something else\. Choose another --out"):
        prepare(make(), tmp_path / "out")
    assert names(tmp_path / "out") == ["thesis.tex"]


@pytest.mark.parametrize("method", ["add_events", "end_events", "add_examples", "end_examples"])
def test_a_failure_in_the_middle_leaves_the_old_data_set(make, tmp_path, monkeypatch, method):
    prepare(make(), tmp_path / "out")
    before = contents(tmp_path / "out")
    places = names(tmp_path)
    written = []

    def fail(self, *_):
        written.append(self.folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparation.ExampleWriter, method, fail)
        with pytest.raises(KeyboardInterrupt):
            prepare(make({"tasks.click": "click = 0"}), tmp_path / "out")
    assert written
    assert written[0].parent == tmp_path
    assert names(tmp_path) == places
    assert contents(tmp_path / "out") == before


def test_the_report(make, tmp_path):
    report = prepare(make(), tmp_path / "out").manifest["report"]
    unknown = report.pop("unknown_rate")
    assert report == {
        "rows_in": 10,
        "rows_dropped": {},
        "rows_repeated": 0,
        "rows": {"train": 6, "valid": 2, "test": 2},
        "requests": {"train": 6, "valid": 2, "test": 2},
        "events": {"clicked": 6},
        "users": 2,
        "items": 4,
        "vocabulary": {"u": 2, "i": 3, "tags": 2},
        "label_rate": {
            "train": {"click": round(4 / 6, 6)},
            "valid": {"click": 0.5},
            "test": {"click": 0.5},
        },
        "negatives_kept": {"click": 1.0},
        "warnings": ["1 of 4 items of the log are not in their table"],
    }
    assert unknown["train"] == {"u": 0, "i": 0, "tags": round(2 / 6, 6), "price": 0, "hour": 0}
    assert unknown["test"] == {"u": 0, "i": 0.5, "tags": 1.0, "price": 0.5, "hour": 0}


def test_lists_of_unseen_ids_are_unknown(make, tmp_path):
    items = {"i": ["a", "b", "c", "d"], "tags": ["x", "x", "x", "q r"], "price": [1.0] * 4}
    unknown = prepare(make(items=items), tmp_path / "out").manifest["report"]["unknown_rate"]
    assert unknown["test"]["tags"] == 0.5  # d's are unseen, and d comes in the test rows only
    assert unknown["valid"]["tags"] == 0.0


@pytest.mark.parametrize(
    ("changes", "log", "items", "message"),
    [
        ({"log.user": "usr"}, {}, {}, r"log\.user: expected a column 'usr', found no such column"),
        ({"log.time": "tt"}, {}, {}, r"log\.time: expected a column 'tt'.* There is: u, i, t, "),
        ({"items.key": "item"}, {}, {}, r"items\.key: expected a column 'item'"),
        ({"items.title": "name"}, {}, {}, r"items\.title: expected a column 'name'"),
        ({"features.hour.column": "hours"}, {}, {}, r"features\.hour: .*Did you mean 'hour'\?"),
        (
            {"features.hour.column": "text"},
            {},
            {},
            r"features\.hour: expected numbers, found a column of type string\. Say type: id",
        ),
        ({"features.hour.type": "vector"}, {}, {}, r"features\.hour: expected lists of numbers"),
        (
            {"features.hour": {"side": "context", "type": "ids", "column": "text"}},
            {},
            {},
            r"features\.hour: expected a list column, or text and a sep.*without a separator",
        ),
        (
            {"features.hour.type": "id"},
            {},
            {},
            r"features\.hour: expected whole numbers or text as ids, found 0\.",
        ),
        ({}, {"u": [1.5] + [1.0] * 9}, {}, r"log\.user: expected whole numbers .*found 1\.5"),
        (
            {},
            {"u": [float("inf")] + [1.0] * 9},
            {},
            r"log\.user: expected whole numbers .*found inf",
        ),
        ({}, {"u": [2.0**60] + [1.0] * 9}, {}, r"log\.user: expected whole numbers"),
        ({}, {"hour": [[1]] * 10}, {}, r"features\.hour: expected numbers, found .*array"),
        (
            {"features.hour.type": "id"},
            {"hour": [[1]] * 10},
            {},
            r"features\.hour: expected one id a row, found lists\. Say type: ids",
        ),
        ({}, {}, {"tags": [["x"], ["y"], []]}, r"features\.tags: .*array.* beside a separator"),
        (
            {"features.hour.type": "vector"},
            {"hour": [[1.0]] * 9 + [[1.0, 2.0]]},
            {},
            r"features\.hour: expected vectors of width 1, found one of width 2",
        ),
        (
            {"features.hour.type": "vector"},
            {"hour": [[1.0]] + [[1.0, 2.0]] * 9},
            {},
            r"features\.hour: expected vectors of one width, found widths from 1 to 2",
        ),
        (
            {},
            {"click": [2] + [0] * 9},
            {},
            r"tasks\.click: expected 0 or 1, .*found 2, in 1 rows\. Write a condition",
        ),
        (
            {"tasks.click": "text"},
            {},
            {},
            r"tasks\.click: expected 0 or 1, .*found text, of type string",
        ),
        (
            {"tasks.click": "clik = 1"},
            {},
            {},
            r"tasks\.click \(clik = 1\): expected a column 'clik'.*Did you mean 'click'",
        ),
        (
            {"tasks.click": "click = = 1"},
            {},
            {},
            r"tasks\.click: expected an SQL expression, found 'click = = 1'",
        ),
        (
            {"tasks.click": "click = 1) FROM x --"},
            {},
            {},
            r"tasks\.click: expected an SQL expression",
        ),
        (
            {"tasks.click": "no_such_function(click)"},
            {},
            {},
            r"tasks\.click: expected an SQL expression over the columns",
        ),
        (
            {"histories.clicked.where": "click"},
            {},
            {},
            r"histories\.clicked\.where: expected a condition",
        ),
        (
            {"histories.clicked.where": "click = 7"},
            {},
            {},
            r"histories\.clicked\.where: expected a condition that some rows .*, found none",
        ),
        ({"histories.clicked.where": "clik = 1"}, {}, {}, r"histories\.clicked\.where .*'clik'"),
        (
            {"log.derive": {"hour": "t % 24"}},
            {},
            {},
            r"log\.derive\.hour: expected a new column's name, found .hour., which is",
        ),
        (
            {"items.derive": {"a": "price", "A": "price"}},
            {},
            {},
            r"items\.derive\.A: expected a new",
        ),
        ({"items.derive": {"a": "prise"}}, {}, {}, r"items\.derive\.a \(prise\): .*'price'"),
        (
            {"items.derive": {"a": "price", "b": "no_such_function(price)"}},
            {},
            {},
            r"items\.derive\.b: expected an SQL",
        ),
        (
            {"log.time": "text"},
            {},
            {},
            r"log\.time: expected numbers, dates or times, found 'text' of .*Cast it under",
        ),
        ({}, {k: [] for k in LOG}, {}, "log: expected rows, found an empty table"),
        (
            {},
            {"click": pa.nulls(10)},
            {},
            "log: expected rows with user, item, time, label, found none: .'no label': 10",
        ),
        (
            {},
            {},
            {"i": ["a", "a", "b"]},
            r"items\.key: expected one row for each of the items, found 'a' in 2 rows",
        ),
        (
            {},
            {},
            {"i": [1, 2, 3]},
            r"items\.key: expected the type of log\.item, string, found int64\. Cast",
        ),
        (
            {"features.hour": {"side": "context", "type": "id", "column": "u", "space": "i"}},
            {},
            {},
            r"features i, hour: expected one type of id in the space i, found int64 and string",
        ),
        (
            {"tasks.click": "CAST(text AS INTEGER)"},
            {},
            {},
            "the recipe's tables: expected values .*Could not convert string 'v' to INT32",
        ),
    ],
)
def test_wrong_input_is_named(make, tmp_path, changes, log, items, message):
    with pytest.raises(FinerankError, match=message):
        prepare(make(changes, log, items), tmp_path / "out")
    assert names(tmp_path) == ["items.parquet", "log.parquet"]


def broken(path, kind):
    path = Path(path)
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "damaged":
        content = bytearray(path.read_bytes())
        content[4:200] = b"\xff" * 196
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"log\.path: expected a file, folder or pattern .*, found no file"),
        ("empty", r"log\.path: expected a table, found an empty file, .*log\.parquet"),
        ("truncated", r"log\.path: expected a whole parquet file, found .*Was it cut off"),
        ("damaged", "the recipe's tables: expected values that can be read"),
    ],
)
def test_broken_files(make, tmp_path, kind, message):
    recipe = make()
    broken(recipe.log.path, kind)
    with pytest.raises(FinerankError, match=message):
        prepare(recipe, tmp_path / "out")


def test_files_that_are_no_tables_or_of_several_kinds(make, tmp_path):
    recipe = make()
    (tmp_path / "a.xls").touch()
    (tmp_path / "b.csv").write_text("x\n1\n")
    (tmp_path / "b.parquet.gz").touch()
    for name, found in (("a.xls", ".xls"), ("*.[cx]*", ".csv, .xls"), ("b.parquet.gz", ".gz")):
        with pytest.raises(FinerankError, match=f"all files of one kind, found {found}"):
            prepare(recipe.override([f'log.path="{tmp_path / name}"']), tmp_path / "out")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["u", "i"], r"log\.path: expected 2 columns, found 3"),
        (["u", "i", "t", "x"], r"log\.path: expected 4 columns, found 3"),
    ],
)
def test_names_of_columns_that_do_not_fit(make, tmp_path, columns, message):
    (tmp_path / "log.csv").write_text("1,2,3\n4,5,6\n")
    recipe = make({"log.columns": columns}).override([f"log.path={tmp_path / 'log.csv'}"])
    with pytest.raises(FinerankError, match=message):
        prepare(recipe, tmp_path / "out")


def test_names_of_columns_are_for_text(make, tmp_path):
    with pytest.raises(
        FinerankError, match=r"expected text files beside columns, separator or enc"
    ):
        prepare(make({"log.columns": list(LOG)}), tmp_path / "out")


def test_a_csv_whose_header_is_all(make, tmp_path):
    (tmp_path / "log.csv").write_text(",".join(LOG))
    recipe = make().override([f"log.path={tmp_path / 'log.csv'}"])
    with pytest.raises(FinerankError, match="log: expected rows, found an empty table"):
        prepare(recipe, tmp_path / "out")


def test_a_csv_with_a_wrong_row(make, tmp_path):
    rows = "\n".join(f"1,a,{t},1,0.5,x" for t in range(30_000))
    (tmp_path / "log.csv").write_text(f"{','.join(LOG)}\n{rows}\noops,a,3,1,0.5,x\n")
    recipe = make().override([f"log.path={tmp_path / 'log.csv'}"])
    with pytest.raises(FinerankError, match=r"CSV Error on Line: 30002.*oops"):
        prepare(recipe, tmp_path / "out")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (None, r"split\.valid: expected the columns of split\.train, found a difference in hour"),
        (
            ["a"] * 10,
            "split: expected one type of 'hour' in train, valid and test, found float64, ",
        ),
    ],
)
def test_files_that_differ(workshop, tmp_path, column, message):
    settings = {**SETTINGS, "split": {"by": "files"}}
    other = pa.table({k: v for k, v in {**LOG, "hour": column}.items() if v is not None})
    for name in ("train", "valid", "test"):
        settings["split"][name] = workshop.write(name, other if name == "valid" else pa.table(LOG))
    settings["items"] = {"key": "i", "path": workshop.write("items", pa.table(ITEMS))}
    with pytest.raises(FinerankError, match=message):
        prepare(Recipe.parse(settings), tmp_path / "out")


def test_no_data_set(tmp_path):
    with pytest.raises(FinerankError, match=r"with manifest\.json.*Run `finerank prepare RECIPE"):
        Dataset(tmp_path)


def test_the_engine_speaks_utc(tmp_path):
    with open_engine(tmp_path / "engine", None) as opened:
        engine = opened.raw
        assert engine.raw_sql("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)
        assert isinstance(engine, ibis.backends.duckdb.Backend)
    assert names(tmp_path) == []


def test_little_memory_is_enough_or_an_error(make, tmp_path):
    columns = {"u": [i % 500 for i in range(100_000)], "t": list(range(100_000))}
    columns |= {name: (LOG[name] * 10_000) for name in ("i", "click", "hour", "text")}
    recipe = make(log=columns)
    prepared = prepare(recipe, tmp_path / "out", memory="64MB")
    assert prepared.manifest["report"]["rows_in"] == 100_000
    with pytest.raises(FinerankError, match="memory: expected enough to sort and group the log"):
        prepare(recipe, tmp_path / "other", memory="1MB")
    assert not (tmp_path / "other").exists()
    with pytest.raises(FinerankError, match="memory: expected an amount such as 512MB or 2GB"):
        prepare(recipe, tmp_path / "other", memory="2 gigs")
