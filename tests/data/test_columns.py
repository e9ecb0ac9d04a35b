"""Every kind of column, from every kind of file, through a whole preparation."""

import datetime
import gzip
import json
import math

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from finerank.errors import FinerankError
from finerank.settings import SPLITS

TIMES = [1, 2, 3, 4, 5]  # three rows to train on, one to validate, one to test
SETTINGS = {
    "log": {"user": "u", "item": "i", "time": "t"},
    "features": {"i": {"side": "item", "type": "id"}},
    "tasks": {"click": "click"},
    "split": {"by": "time", "valid_from": 4, "test_from": 5},
}


def log(**columns):
    base = {"u": [1] * 5, "i": [10, 11, 10, 11, 12], "t": TIMES, "click": [1, 0, 1, 0, 1]}
    return pa.table({**base, **columns})


def with_features(histories=None, **features):
    settings = {**SETTINGS, "features": {**SETTINGS["features"], **features}}
    return {**settings, "histories": histories} if histories else settings


def values(read, dataset, name, side="request"):
    """The feature's value of each row, in order of time."""
    found = []
    for split in SPLITS:
        for request in read(dataset, split):
            if side == "request":
                found.append(request["request"][name])
            else:
                found += [each[name] for each in request["candidates"]]
    return found


@pytest.mark.parametrize(
    ("raw", "read_back"),
    [
        ([7, 16_777_217, None, 7, 16_777_216], [7, 16_777_217, None, 7, None]),
        (["b", "ä 'x\"", None, "b", "c"], ["b", "ä 'x\"", None, "b", None]),
        ([True, True, None, False, True], [1, 1, None, None, 1]),
        ([3.0, None, math.nan, 3.0, 4.0], [3, None, None, 3, None]),
        (
            pa.array([2**64 - 1, 5, 5, 2**64 - 1, 2**64 - 2], pa.uint64()),
            [str(2**64 - 1), "5", "5", str(2**64 - 1), None],
        ),
        (
            [datetime.date(2024, 1, 2)] * 4 + [datetime.date(2024, 1, 3)],
            ["2024-01-02"] * 4 + [None],
        ),
        ([None] * 5, [None] * 5),
    ],
    ids=["int", "text", "bool", "float", "uint64", "date", "null"],
)
def test_id_columns(workshop, read, raw, read_back):
    settings = with_features(c={"side": "context", "type": "id"})
    dataset = workshop.prepare(settings, log=log(c=raw))
    assert values(read, dataset, "c") == read_back


def test_min_count_and_order_of_the_vocabulary(workshop):
    settings = with_features(c={"side": "context", "type": "id", "min_count": 2})
    raw = log(c=["x", "y", "y", "z", "z"])
    dataset = workshop.prepare(settings, log=raw)
    assert dataset.encoder.encodings["c"].vocabulary.values.to_pylist() == ["y"]
    settings["features"]["c"]["min_count"] = 1
    dataset = workshop.prepare(settings, log=raw, out="other")
    assert dataset.encoder.encodings["c"].vocabulary.values.to_pylist() == ["y", "x"]
    settings["features"]["c"]["max_size"] = 1
    dataset = workshop.prepare(settings, log=raw, out="third")
    assert dataset.encoder.encodings["c"].vocabulary.values.to_pylist() == ["y"]


def test_buckets_need_no_vocabulary(workshop):
    """An id that training never saw has one too; a bundle would load what is written."""
    hashed = {"side": "context", "buckets": 100, "space": "words"}
    features = {"c": {**hashed, "type": "id"}, "d": {**hashed, "type": "ids"}}
    raw = log(c=["x", "y", "y", None, "new"], d=[["x"], [], ["y", "new"], ["y"], ["x"]])
    dataset = workshop.prepare(with_features(**features), log=raw)
    assert [f.size for f in dataset.schema.features if f.space == "words"] == [101, 101]
    x, y, new = dataset.encoder.encodings["c"].vocabulary.encode(pa.array(["x", "y", "new"]))
    columns = [dataset.split(split).request for split in SPLITS]
    assert [i for each in columns for i in each["c"].tolist()] == [x, y, y, 0, new]
    assert [i for each in columns for i in each["d"].values.tolist()] == [x, y, new, y, x]


def test_a_space_has_buckets_or_none(workshop):
    features = {
        "c": {"side": "context", "type": "id", "space": "s", "buckets": 100},
        "e": {"side": "context", "type": "id", "space": "s"},
    }
    raw = log(c=["x"] * 5, e=["x"] * 5)
    with pytest.raises(
        FinerankError, match=r"expected the same buckets .* space s, found 100, none"
    ):
        workshop.prepare(with_features(**features), log=raw)


@pytest.mark.parametrize(
    ("raw", "separator", "read_back"),
    [
        ([[1, 2], None, [None, 2], [2, 3], []], None, [[1, 2], [], [2], [2, None], []]),
        (["a|b", None, " | b\t", "b|c|a", ""], "|", [["a", "b"], [], ["b"], ["b", None, "a"], []]),
        ([["a "], ["", "b"], [], ["b"], ["c"]], None, [["a"], ["b"], [], ["b"], [None]]),
        ([[1.0, math.nan], [], [], [1.0], [2.0]], None, [[1], [], [], [1], [None]]),
        (
            pa.array([[1, 2]] * 4 + [[2, 9]], pa.list_(pa.int32(), 2)),
            None,
            [[1, 2]] * 4 + [[2, None]],
        ),
    ],
    ids=["int lists", "text", "text lists", "float lists", "fixed lists"],
)
def test_ids_columns(workshop, read, raw, separator, read_back):
    feature = {"side": "context", "type": "ids"}
    if separator:
        feature["separator"] = separator
    dataset = workshop.prepare(with_features(c=feature), log=log(c=raw))
    assert values(read, dataset, "c") == read_back
    assert not {"", None} & set(dataset.encoder.encodings["c"].vocabulary.values.to_pylist())


@pytest.mark.parametrize(
    "raw",
    [
        [1.0, None, 5.0, math.nan, math.inf],
        [1.0, math.nan, 5.0, math.nan, -math.inf],
        pa.array([1, None, 5, None, None], pa.int8()),
        pa.array([1, None, 5, None, None], pa.decimal128(9, 2)),
    ],
    ids=["null", "nan", "int", "decimal"],
)
def test_numbers(workshop, read, raw):
    settings = with_features(c={"side": "context", "type": "number"})
    dataset = workshop.prepare(settings, log=log(c=raw))
    # of the training rows' 1 and 5: mean 3, standard deviation 2
    found = [None if math.isnan(v) else v for v in values(read, dataset, "c")]
    assert found == [-1, None, 1, None, None]
    rates = dataset.manifest["report"]["unknown_rate"]
    assert {split: rates[split]["c"] for split in rates} == {
        "train": round(1 / 3, 6),
        "valid": 1.0,
        "test": 1.0,
    }


def test_a_number_that_never_varies_is_not_blown_up(workshop, read):
    settings = with_features(c={"side": "context", "type": "number"})
    dataset = workshop.prepare(settings, log=log(c=[0.1, 0.1, 0.1, 0.1, 0.6]))
    assert values(read, dataset, "c") == pytest.approx([0, 0, 0, 0, 0.5], abs=1e-6)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2)])
def test_vectors(workshop, read, kind):
    raw = pa.array([[1, 2], None, [3, -4], [5, 6], [0.5, 0]], kind)
    settings = with_features(c={"side": "context", "type": "vector"})
    dataset = workshop.prepare(settings, log=log(c=raw))
    assert values(read, dataset, "c") == [[1, 2], [0, 0], [3, -4], [5, 6], [0.5, 0]]
    assert dataset.schema.feature("c").size == 2


def test_features_of_one_space_share_ids(workshop, read):
    settings = with_features(
        last={"side": "context", "type": "id", "space": "i"},
        shown={"side": "history", "type": "id", "space": "i", "column": "last"},
        basket={"side": "context", "type": "ids", "space": "i"},
        histories={"past": {"features": ["i", "shown"]}},
    )
    raw = log(last=[12, 11, None, 10, 13], basket=[[10], [20], [], [11, 20], [12]])
    dataset = workshop.prepare(settings, log=raw)
    own = [dataset.encoder.encodings[n].vocabulary for n in ("i", "last", "shown", "basket")]
    assert all(each is own[0] for each in own)
    # in training 11 comes three times ("shown" counts again), 10 three, 12 twice, 20 once
    assert own[0].values.to_pylist() == [10, 11, 12, 20]
    assert values(read, dataset, "last") == [12, 11, None, 10, None]
    assert values(read, dataset, "basket") == [[10], [20], [], [11, 20], [12]]
    newest = read(dataset, "test")[0]["histories"]["past"]
    assert newest["i"] == [10, 11, 10, 11]
    assert newest["shown"] == [12, 11, None, 10]


def test_a_space_of_a_table_and_of_the_log(workshop):
    """A table's value counts once for every row of its item, the log's own once a row."""
    settings = with_features(
        maker={"side": "item", "type": "id", "space": "m"},
        liked={"side": "context", "type": "id", "space": "m"},
    )
    settings["items"] = {"key": "i"}
    items = pa.table({"i": [10, 11], "maker": ["p", "q"]})
    dataset = workshop.prepare(settings, log=log(liked=["r", "q", "q", "s", "t"]), items=items)
    known = dataset.encoder.encodings["maker"].vocabulary.values.to_pylist()
    assert known == ["q", "p", "r"]  # three, two and one of the three training rows


def test_homes(workshop, read):
    """A column comes from its side's own table if that has it, else from the log."""
    settings = with_features(
        price={"side": "item", "type": "number"},
        color={"side": "item", "type": "id"},
        place={"side": "item", "type": "id"},
        age={"side": "user", "type": "number"},
        double={"side": "item", "type": "number", "column": "twice"},
    )
    settings["items"] = {"key": "id", "title": "name", "derive": {"twice": "price * 2"}}
    settings["users"] = {"key": "u"}
    raw = log(place=["top", "low", "top", "low", "top"], price=[9.0] * 5)
    items = pa.table(
        {
            "id": [10, 11, 99],
            "name": ["Ten", None, "N"],
            "price": [1.0, 3.0, 7.0],
            "color": ["r", "g", "b"],
        }
    )
    users = pa.table({"u": [1, 2], "age": [30, 40]})
    dataset = workshop.prepare(settings, log=raw, items=items, users=users)
    homes = {feature.name: feature.home for feature in dataset.schema.features}
    assert homes == {
        **dict.fromkeys(("i", "price", "color", "double"), "items"),
        "place": "log",
        "age": "users",
    }
    # item 12 is in the log only: its id is known to be unknown, the rest is missing
    assert values(read, dataset, "i", "candidate") == [10, 11, 10, 11, None]
    assert values(read, dataset, "color", "candidate") == ["r", "g", "r", "g", None]
    assert values(read, dataset, "place", "candidate") == ["top", "low", "top", "low", "top"]
    mean, std = 5 / 3, math.sqrt(8 / 9)  # of the training rows' 1, 3, 1
    prices = values(read, dataset, "price", "candidate")
    assert prices[:4] == pytest.approx([(v - mean) / std for v in (1, 3, 1, 3)], abs=1e-6)
    assert math.isnan(prices[4])
    assert values(read, dataset, "double", "candidate")[:4] == pytest.approx(prices[:4], abs=1e-6)
    assert dataset.items.keys.values.to_pylist() == [10, 11, 12, 99]
    assert [dataset.items.title(row) for row in range(5)] == [None, "Ten", None, None, "N"]
    assert dataset.users.keys.values.to_pylist() == [1, 2]


def test_an_item_that_its_table_lacks_keeps_its_id(workshop, read):
    settings = {**with_features(), "items": {"key": "i"}}
    items = pa.table({"i": [11]})
    dataset = workshop.prepare(settings, log=log(), items=items)
    assert values(read, dataset, "i", "candidate") == [10, 11, 10, 11, None]


def test_names_that_mean_something_to_python_torch_or_us(workshop, read):
    names = ["type", "items", "keys", "user", "item", "time", "split", "first_candidate", "offset"]
    sides = ["context", "item", "context", "context", "item", "item", "context", "context", "item"]
    features = {
        name: {"side": side, "type": "id", "column": "c"}
        for name, side in zip(names, sides, strict=True)
    }
    settings = with_features(histories={"time": {"features": ["time", "item"]}}, **features)
    settings["tasks"] = {"item": "click"}
    dataset = workshop.prepare(settings, log=log(c=["p", "q", "r", "p", "q"]))
    for name, side in zip(names, sides, strict=True):
        found = values(read, dataset, name, "candidate" if side == "item" else "request")
        assert found == ["p", "q", "r", "p", "q"], name
    assert read(dataset, "test")[0]["histories"]["time"]["time"] == ["p", "q", "r", "p"]
    assert dataset.split("test").batch(dataset.split("test").first_candidate[:1]).user.tolist() == [
        1
    ]


def test_raw_columns_of_any_name(workshop, read):
    settings = with_features(
        a={"side": "context", "type": "id", "column": 'we"ird, (col) '},
        split={"side": "context", "type": "id"},
    )
    settings["log"] = {**settings["log"], "user": "split"}
    settings["tasks"] = {"click": '"we""ird, (col) " = 1  -- a comment'}
    dataset = workshop.prepare(
        settings, log=log(**{'we"ird, (col) ': [1, 2, 1, 2, 1], "split": ["x", "y", "x", "x", "y"]})
    )
    # in order of user within a split
    assert values(read, dataset, "a") == [1, 1, 2, 2, 1]
    assert values(read, dataset, "split") == ["x", "x", "y", "x", "y"]
    assert dataset.split("train").labels[0].tolist() == [1, 1, 0]


def test_labels_may_be_missing_and_rows_without_any_are_events_only(workshop, read):
    settings = with_features(histories={"past": {"features": ["i"]}})
    settings["tasks"] = {"click": "click", "buy": "buy"}
    raw = log(click=[1.0, math.nan, None, 0, 1], buy=[None, None, True, False, None])
    dataset = workshop.prepare(settings, log=raw)
    labels = [
        each["labels"] for split in SPLITS for r in read(dataset, split) for each in r["candidates"]
    ]
    assert labels == [[1, None], [None, 1], [0, 0], [1, None]]
    assert read(dataset, "test")[0]["histories"]["past"]["raw_time"] == [1, 2, 3, 4]
    report = dataset.manifest["report"]
    assert report["rows_dropped"] == {"no label": 1}
    assert report["rows_in"] == 5
    assert report["rows"] == {"train": 2, "valid": 1, "test": 1}
    assert report["events"] == {"past": 5}
    assert report["label_rate"]["train"] == {"click": 1.0, "buy": 1.0}
    assert report["label_rate"]["test"] == {"click": 1.0, "buy": 0.0}


def test_rows_without_user_item_or_time_are_dropped_and_counted(workshop, read):
    extra = [
        {"u": None, "i": 10, "t": 1.0, "click": 1},
        {"u": None, "i": None, "t": 1.0, "click": 1},
        {"u": 1, "i": None, "t": 2.0, "click": 1},
        {"u": 1, "i": 10, "t": None, "click": 1},
        {"u": 1, "i": 10, "t": math.nan, "click": 1},
        {"u": 1, "i": 10, "t": 1.5, "click": None},
    ]
    rows = [*log().to_pylist(), *extra]
    dataset = workshop.prepare(
        with_features(), log=[{**r, "t": r["t"] and float(r["t"])} for r in rows]
    )
    report = dataset.manifest["report"]
    assert report["rows_dropped"] == {"no user": 2, "no item": 1, "no time": 2, "no label": 1}
    assert report["rows_in"] == 11
    assert report["rows"] == {"train": 3, "valid": 1, "test": 1}
    assert sum(len(read(dataset, split)) for split in SPLITS) == 5


MOMENTS = [datetime.datetime(2024, 1, day, 23, 30, tzinfo=datetime.UTC) for day in range(1, 6)]


@pytest.mark.parametrize(
    ("times", "valid_from", "test_from"),
    [
        (pa.array(TIMES, pa.float64()), 4, 5),
        (pa.array(TIMES, pa.decimal128(5, 1)), 4, 5),
        (
            pa.array([m.replace(tzinfo=None) for m in MOMENTS], pa.timestamp("us")),
            "2024-01-04",
            "2024-01-05",
        ),
        (
            pa.array([m.replace(tzinfo=None) for m in MOMENTS], pa.timestamp("ns")),
            "2024-01-04",
            "2024-01-05",
        ),
        (
            pa.array([m.replace(tzinfo=None) for m in MOMENTS], pa.timestamp("s")),
            "2024-01-04",
            "2024-01-05",
        ),
        (pa.array(MOMENTS, pa.timestamp("ms", "Asia/Tokyo")), "2024-01-04", "2024-01-05"),
        (pa.array([m.date() for m in MOMENTS]), "2024-01-04", "2024-01-05"),
    ],
    ids=["float", "decimal", "us", "ns", "s", "tz", "date"],
)
@pytest.mark.parametrize("shares", [True, False])
def test_kinds_of_time(workshop, read, times, valid_from, test_from, shares):
    settings = with_features(histories={"past": {"features": ["i"], "max_length": 2}})
    settings["split"] = {"by": "time", "valid_from": valid_from, "test_from": test_from}
    if shares:
        settings["split"] = {"by": "time", "valid": 0.2, "test": 0.2}
    dataset = workshop.prepare(settings, log=log(t=times))
    assert dataset.manifest["report"]["rows"] == {"train": 3, "valid": 1, "test": 1}
    histories = [r["histories"]["past"]["raw_item"] for s in SPLITS for r in read(dataset, s)]
    assert histories == [[], [10], [10, 11], [11, 10], [10, 11]]


def test_what_is_derived_of_a_time_is_in_utc(workshop, read, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    settings = with_features(hour={"side": "context", "type": "id"})
    settings["log"] = {**settings["log"], "derive": {"hour": "hour(t)"}}
    settings["split"] = {"by": "time", "valid": 0.2, "test": 0.2}
    raw = log(t=pa.array(MOMENTS, pa.timestamp("ms", "America/New_York")))
    assert values(read, workshop.prepare(settings, log=raw), "hour") == [23] * 5


def halves(table):
    return table.slice(0, 2), table.slice(2)


def test_what_the_names_of_partitions_say_is_a_column(workshop, read):
    folder = workshop.folder / "log"
    for day, part in enumerate(halves(log()), start=1):
        (folder / f"day=2026-01-0{day}").mkdir(parents=True)
        pq.write_table(part, folder / f"day=2026-01-0{day}" / "part-0.parquet")
    settings = with_features(day={"side": "context", "type": "id"})
    settings["log"] = {**settings["log"], "path": str(folder)}
    days = values(read, workshop.prepare(settings), "day")
    assert [str(day) for day in days] == ["2026-01-01"] * 2 + ["2026-01-02"] * 3


@pytest.mark.parametrize("kind", ["parquet", "csv", "arrow", "folder", "pattern", "files"])
def test_kinds_of_files(workshop, read, kind):
    table = log(c=["x", "", "y", "x", "z"])
    folder = workshop.folder / "it's a [folder]"
    folder.mkdir()
    settings = with_features(c={"side": "context", "type": "id"})
    first, rest = halves(table)
    path = folder / f"log.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "csv":
        pa.csv.write_csv(table, path)
    elif kind == "arrow":
        pa.feather.write_feather(table, path, compression="uncompressed")
    elif kind == "folder":
        path.mkdir()
        pa.csv.write_csv(first, path / "a.csv")
        pa.csv.write_csv(rest.select(table.column_names[::-1]), path / "b.CSV")  # another order
        (path / "c.csv").touch()
        (path / "_SUCCESS").touch()
    elif kind == "pattern":
        pq.write_table(first, workshop.folder / "part-1.parquet")
        pq.write_table(rest, workshop.folder / "part-2.parquet")
        pq.write_table(rest, workshop.folder / "other.parquet")
        path = workshop.folder / "part-*.parquet"
    settings["log"] = {**settings["log"], "path": str(path)}
    if kind == "files":
        del settings["log"]["path"]
        settings["split"] = {"by": "files"}
        parts = {"train": table.slice(0, 3), "valid": table.slice(3, 1), "test": table.slice(4)}
        # whole numbers in one file and fractions in another, as CSV may well be read
        parts["valid"] = parts["valid"].set_column(2, "t", pa.array([4.25]))
        for name, part in parts.items():
            pq.write_table(
                part.append_column("split", pa.array(["mine"] * len(part))),
                folder / f"{name}.parquet",
            )
            settings["split"][name] = str(folder / f"{name}.parquet")
        settings["features"]["split"] = {"side": "context", "type": "id"}
    dataset = workshop.prepare(settings)
    assert dataset.items.keys.values.to_pylist() == [10, 11, 12]
    found = values(read, dataset, "c")
    assert found == ["x", found[1], "y", "x", None]
    assert found[1] in ("", None)  # a CSV doesn't tell the empty text from nothing
    assert [round(label) for s in SPLITS for label in dataset.split(s).labels[0].tolist()] == [
        1,
        0,
        1,
        0,
        1,
    ]
    if kind == "files":
        assert [r["time"] for s in SPLITS for r in read(dataset, s)] == [1, 2, 3, 4.25, 5]
        assert values(read, dataset, "split") == ["mine"] * 5


@pytest.mark.parametrize("kind", ["dat", "jsonl.gz"])
def test_text_without_a_header_and_json_lines(workshop, read, kind):
    table, path = log(c=["x", "y y", "y y", "x", "z"]), workshop.folder / f"log.{kind}"
    settings = with_features(c={"side": "context", "type": "id"})
    settings["log"] = {**settings["log"], "path": str(path)}
    if kind == "dat":  # as MovieLens has them: no header, two characters between columns
        rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
        path.write_text("".join("::".join(map(str, row)) + "\n" for row in rows))
        settings["log"] |= {"columns": table.column_names, "separator": "::"}
    else:
        with gzip.open(path, "wt") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
    dataset = workshop.prepare(settings)
    assert dataset.items.keys.values.to_pylist() == [10, 11, 12]
    assert values(read, dataset, "c") == ["x", "y y", "y y", "x", None]
