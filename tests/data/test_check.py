"""The leak checker on what is prepared from random logs, and what it reports beside."""

import json
import os

import check_shapes as shapes
import numpy as np
import pyarrow as pa
import pytest

import finerank
from finerank.checks import limits
from finerank.checks.checker import check
from finerank.checks.facts import population_stability_index
from finerank.errors import FinerankError
from finerank.settings import SPLITS


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_what_is_prepared_passes(of_shape, shape):
    folder = of_shape(shape)
    report = check(folder, sample=10_000)
    assert shapes.failed(report) == {}
    assert report.passed
    assert report.limits == ()
    settings = shapes.SHAPES[shape]
    status = {each.name: each.status for each in report.checks}
    claims = ["rows", "split", "vocabularies", "numbers", "features"]
    claims += [f"labels {task}" for task in settings["tasks"]]
    for history in settings.get("histories", {}):
        claims += [f"windows {history}", f"history {history}"]
        claims += ["time order before"] if shape == "lists" else []
    claims += ["negatives"] if "per_positive" in settings.get("negatives", {}) else []
    claims += ["drawn in training"] if settings.get("negatives", {}).get("fresh") else []
    assert set(status) == set(claims)
    told = settings["split"]["by"] in ("time", "last")
    unproved = set() if told else {"split"}
    if shape in ("random", "without time", "negatives random", "thinned", "events dates"):
        unproved |= {"numbers"} & {n for n, s in status.items() if s == "not checked"}
    unproved |= {"time order before"} if shape == "lists" else set()
    if shape == "without keys":
        unproved |= {"rows", "vocabularies", "numbers", "features", "labels like"}
    assert {name for name, each in status.items() if each == "not checked"} == unproved
    manifest = json.loads((folder / "manifest.json").read_text())["report"]
    assert report.examples == {
        split: manifest["rows"][split] + manifest.get("negatives", {}).get(split, 0)
        for split in SPLITS
    }
    for key in ("label_rate", "unknown_rate"):
        for split in SPLITS:
            assert getattr(report, key)[split] == pytest.approx(manifest[key][split], abs=2e-6)


def log_of(rows):
    """Rows of user, item, time, rating and device."""
    names = ("uid", "iid", "at", "rating", "device")
    return [dict(zip(names, row, strict=True)) for row in rows]


RECIPE = {
    "log": shapes.LOG,
    "features": {"iid": shapes.IN_LOG["iid"], "device": shapes.FEATURES["device"]},
    "tasks": {"like": "rating >= 4"},
    "split": {"by": "time", "valid_from": 20, "test_from": 30},
}
ROWS = [
    *((1, "a", 1, 5, "phone"), (1, "a", 1, 1, "phone"), (2, "b", 3, 5, "desk")),
    *((3, "a", 4, 1, "phone"), (1, "b", 21, 5, "phone"), (4, "c", 31, 5, "watch")),
]


def test_what_is_reported_beside(workshop):
    folder = workshop.prepare(RECIPE, log=log_of(ROWS)).folder
    report = finerank.check(folder, sample=4)
    assert report.passed
    assert report.folder == str(folder)
    assert report.examples == {"train": 2, "valid": 1, "test": 1}
    assert report.duplicates == 1
    assert report.users_in_several_splits == 0.25  # user 1 of four
    assert report.label_rate == {
        "train": {"like": 0.5},
        "valid": {"like": 1.0},
        "test": {"like": 1.0},
    }
    assert report.unknown_rate["test"] == {"iid": 1.0, "device": 1.0}
    assert report.unknown_rate["valid"] == {"iid": 0.0, "device": 0.0}
    # phone .75, desk .25, rest and unknown 0 in train; all unknown in test
    least = 1e-4
    expected = sum((q - p) * np.log(q / p) for p, q in [(0.75, least), (0.25, least), (least, 1.0)])
    assert report.drift["device"] == pytest.approx(expected, rel=1e-5)
    assert [w for w in report.warnings if w.startswith("device drifts from train to test")]
    assert json.loads(json.dumps(report.to_json()))["passed"] is True


def test_drift_of_numbers_is_over_tenths_of_train(workshop):
    log = [
        {"uid": n, "iid": "a", "at": 1 if n < 100 else 25 if n < 101 else 40, "rating": 5, "x": x}
        for n, x in enumerate([*range(100), 0, *range(50, 150)])
    ]
    features = {"x": {"side": "context", "type": "number"}}
    report = check(workshop.prepare({**RECIPE, "features": features}, log=log).folder)
    p, q = np.full(10, 0.1), np.array([1e-4] * 5 + [0.1] * 4 + [0.6])
    assert report.drift["x"] == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=1e-5)
    assert population_stability_index(np.array([5, 5]), np.array([50, 50])) == 0.0


def test_the_same_row_in_train_and_test_is_a_warning(workshop):
    log = log_of([(1, "a", 1, 5, f"phone {number}") for number in range(30)])
    split = {"by": "random", "valid": 0.3, "test": 0.3}
    report = check(workshop.prepare({**RECIPE, "split": split}, log=log).folder)
    assert report.passed
    assert report.duplicates == 29
    assert "1 combinations of user, item and time stand in several splits" in report.warnings
    assert any("random makes no claim about time" in warning for warning in report.warnings)
    (numbers,) = [each for each in report.checks if each.name == "numbers"]
    assert numbers.what == "30 rows can't be told to be of train or not by their keys"


def test_the_seed_decides_which_examples(of_shape, monkeypatch):
    from finerank.checks.sampled import Sample  # noqa: PLC0415

    drawn = []
    run = Sample.checks

    def checks(self):
        drawn.append(self.examples)
        return run(self)

    monkeypatch.setattr(Sample, "checks", checks)
    for seed in (0, 0, 1):
        check(of_shape("last"), sample=9, seed=seed)
    one, again, other = drawn
    assert one == again != other
    assert len(set(one)) == 9


def test_a_setting_that_the_checker_does_not_know_is_named(of_shape, monkeypatch):
    known = limits.KNOWN["histories"].replace(" max_age", "")
    monkeypatch.setitem(limits.KNOWN, "histories", known)
    monkeypatch.setitem(limits.KNOWN, "features", limits.KNOWN["features"].replace("max_size", ""))
    report = check(of_shape("shares"))
    assert report.limits == ("features.words.max_size", "histories.recent.max_age")
    status = {each.name: each.status for each in report.checks}
    assert status["history recent"] == "not checked"
    assert "windows recent" not in status
    vocabularies = next(each.what for each in report.checks if each.name == "vocabularies")
    assert "words" not in vocabularies
    assert "words" not in report.unknown_rate["train"]
    assert report.passed
    assert status["rows"] == "passed"


@pytest.mark.parametrize(
    ("part", "setting", "shape", "message"),
    [
        ("tasks", "within", "events", "found tasks.click.within, tasks.order.within. Nothing"),
        ("split", "valid_from", "time", "expected a recipe whose parts this check knows"),
        ("log", "derive", "shares", "found log.derive"),
        ("negatives", "keep", "thinned", "found negatives.keep"),
    ],
)
def test_a_setting_that_decides_all_is_an_error(
    of_shape, monkeypatch, part, setting, shape, message
):
    monkeypatch.setitem(limits.KNOWN, part, limits.KNOWN[part].replace(setting, ""))
    with pytest.raises(FinerankError, match=message):
        check(of_shape(shape))


def test_a_value_that_the_checker_does_not_know(of_shape, monkeypatch):
    monkeypatch.setitem(limits.KNOWN_VALUES, "negatives.exclude", ("ever",))
    with pytest.raises(FinerankError, match=r"found negatives\.exclude: before"):
        check(of_shape("negatives before"))


def test_what_is_no_prepared_data_set(tmp_path):
    with pytest.raises(FinerankError, match=r"expected a prepared data set .* found none. Run `fi"):
        check(tmp_path)


def test_a_sample_of_nothing(of_shape):
    with pytest.raises(FinerankError, match="sample: expected at least one example, found 0"):
        check(of_shape("last"), sample=0)


def test_raw_files_that_are_gone_or_changed(workshop):
    folder = workshop.prepare(RECIPE, log=log_of(ROWS)).folder
    log = workshop.folder / "log.parquet"
    kept = log.read_bytes()
    stat = log.stat()
    log.write_bytes(kept + b" ")
    message = rf"log.parquet: expected the file as it was when .*prepared was prepared \([\d,]+ bytes\), found one of {len(kept) + 1:,} bytes, changed \d{{4}}-"  # noqa: E501
    with pytest.raises(FinerankError, match=message):
        check(folder)
    log.unlink()
    with pytest.raises(
        FinerankError, match=r"log.parquet: expected the file that .* found no such file. Prepare"
    ):
        check(folder)
    log.write_bytes(kept)
    os.utime(log, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert check(folder).passed


def test_a_raw_file_that_was_added(workshop):
    (workshop.folder / "logs").mkdir()
    workshop.write("logs/one", log_of(ROWS))
    settings = {**RECIPE, "log": {**RECIPE["log"], "path": str(workshop.folder / "logs")}}
    folder = workshop.prepare(settings).folder
    assert check(folder).passed
    workshop.write("logs/two", log_of(ROWS))
    with pytest.raises(FinerankError, match=r"log.path: expected the files .* another one, .*two"):
        check(folder)


@pytest.mark.parametrize("kind", ["csv", "arrow", "jsonl", "txt"])
def test_other_kinds_of_files(workshop, kind):
    import pyarrow.csv  # noqa: PLC0415

    table, path = pa.Table.from_pylist(log_of(ROWS)), workshop.folder / f"log.{kind}"
    if kind == "csv":
        pyarrow.csv.write_csv(table, path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, log_of(ROWS))))
    elif kind == "txt":  # without a header, and of another separator
        path.write_text("".join("|".join(map(str, row)) + "\n" for row in ROWS))
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    settings = {**RECIPE, "log": {**RECIPE["log"], "path": str(path)}}
    if kind == "txt":
        settings["log"] |= {"columns": table.column_names, "separator": "|"}
    assert check(workshop.prepare(settings).folder).passed
