"""Random recipes over random small logs: the prepared data set is what plain Python gives."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from reference import Reference

from finerank.data import assembly
from finerank.errors import FinerankError

SPLITS = ("train", "valid", "test")
PROPERTY = settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=[Phase.generate],  # an example takes a second: shrinking would take minutes
)
COLUMNS = {
    "u": pa.int64(),
    "i": pa.string(),
    "t": pa.int64(),
    "kind": pa.string(),
    "rating": pa.int64(),
    "done": pa.bool_(),
    "device": pa.string(),
    "hour": pa.float64(),
    "tags": pa.list_(pa.string()),
    "codes": pa.list_(pa.float64()),
    "last": pa.string(),
    "dwell": pa.float64(),
    "n": pa.int64(),
}
USERS = {"u": pa.int64(), "country": pa.string()}
ITEMS = {"i": pa.string(), "cat": pa.string(), "price": pa.float64(), "v": pa.list_(pa.float32())}
KINDS = ("view", "view", "click", "order")


def some(*values):
    return st.sampled_from([*values, None])


LOGS = st.lists(
    st.builds(
        dict,
        u=st.sampled_from([1, 1, 2, 2, 3, 3, 4, None]),
        i=st.sampled_from(["a", "b", "c", "d", "e", "f", None]),
        t=st.sampled_from([*range(24), None]),
        kind=some(*KINDS),
        rating=some(1, 4, 5),
        done=some(True, False),
        device=some("phone", "desk", "tv"),
        hour=some(0.0, 0.5, 7.25, math.nan, math.inf),
        tags=some([], ["x"], ["y", "x"], ["x", None, " y ", "", "x"]),
        codes=some([], [1.0], [2.0, math.nan, 1.0], [None, 3.0], [math.nan]),
        last=some("a", "b", "zz"),
    ),
    min_size=25,
    max_size=60,
)
#: Rows that make sure of every split, every event and a history.
ANCHORS = [
    {"u": user, "i": item, "t": t, "kind": kind, "rating": rating, "done": done}
    | {"device": "desk", "hour": 1.0, "tags": ["x"], "codes": [1.0], "last": "a"}
    for user, item, t, kind, rating, done in [
        (1, "a", 0, "view", 5, True),
        (1, "a", 0, "click", 4, None),
        (1, "b", 1, "order", 4, False),
        (1, "b", 2, "view", 1, False),
        (1, "c", 13, "view", 5, False),
        (1, "d", 18, "view", 4, True),
        (1, "d", 24, "click", 1, True),
    ]
]
USER_TABLE = st.sampled_from(
    [
        None,
        [{"u": u, "country": c} for u, c in [(1, "FR"), (2, "FR"), (3, None), (9, "DE")]],
        [{"u": 1, "country": "FR"}],
    ]
)
ITEM_TABLE = [
    {"i": "a", "cat": "red", "price": 1.5, "v": [1.0, 2.0]},
    {"i": "b", "cat": "red", "price": None, "v": None},
    {"i": "c", "cat": None, "price": -2.0, "v": [0.5, 0.0]},
    {"i": "d", "cat": "blue", "price": math.inf, "v": [0.0, 0.0]},
    {"i": "z", "cat": "green", "price": 4.0, "v": [1.0, 1.0]},
]


def ids(side, kind="id", **options):
    """An id feature with what a recipe may say of any."""
    least = st.sampled_from([{}, {}, {"min_count": 2}, {"min_count": 4}])
    most = st.sampled_from([{}, {}, {"max_size": 1}, {"max_size": 3}])
    return st.builds(
        lambda *parts: {k: v for part in parts for k, v in part.items()},
        *(st.just({"side": side, "type": kind, **options}), least, most),
    )


@st.composite
def recipes(draw, by, *, sampled=False):
    """Settings of a recipe, without paths."""
    optional = {
        "u": ids("user"),
        "device": ids("context"),
        "hour": st.just({"side": "context", "type": "number"}),
        "tags": ids("context", "ids"),
        "codes": ids("context", "ids"),
        "last": ids("context", **draw(st.sampled_from([{}, {"space": "i"}]))),
        "price": st.just({"side": "item", "type": "number"}),
        "v": st.just({"side": "item", "type": "vector"}),
    }
    features = {name: draw(each) for name, each in optional.items() if draw(st.booleans())}
    features |= {"i": draw(ids("item")), "cat": draw(ids("item"))}
    features["dwell"] = {"side": "history", "type": "number"}
    histories = {}
    for name in draw(st.lists(st.sampled_from(["seen", "liked"]), unique=True)):
        steps = draw(st.lists(st.sampled_from(["i", "cat", "dwell"]), min_size=1, unique=True))
        histories[name] = {"features": steps, "max_length": draw(st.integers(1, 5))}
        if (condition := draw(some("rating >= 4", "kind <> 'order'"))) is not None:
            histories[name]["where"] = condition
        if (age := draw(some(3, 9))) is not None:
            histories[name]["max_age"] = age
    log, tasks = {"user": "u", "item": "i", "time": "t"}, {"like": "rating >= 4", "done": "done"}
    if draw(st.booleans()):
        log["examples"] = "kind = 'view'"
        if by in ("time", "last", "shares"):
            log["event"] = "kind"
            tasks |= {
                name: {"event": name, "within": w} for name, w in [("click", 2), ("order", 5)]
            }
    names = draw(st.lists(st.sampled_from(list(tasks)), min_size=1, unique=True))
    split = {
        "time": {"by": "time", "valid_from": 12, "test_from": 17},
        "shares": {"by": "time", "valid": 0.25, "test": 0.25},
        "last": {"by": "last", "valid": 1, "test": 1},
        "random": {"by": "random", "valid": 0.25, "test": 0.25, "seed": draw(st.integers(0, 9))},
        "files": {"by": "files"},
    }[by]
    settings = {
        "log": log,
        "items": {"key": "i"},
        "features": features,
        "histories": histories,
        "tasks": {name: tasks[name] for name in names},
        "split": split,
    }
    if sampled:
        settings["negatives"] = {
            "per_positive": draw(st.integers(1, 3)),
            "evaluation": draw(st.integers(1, 4)),
            "by": draw(st.sampled_from(["uniform", "popularity"])),
            "exclude": draw(st.sampled_from(["ever", "before"])),
            **draw(st.sampled_from([{}, {"within": "cat"}])),
        }
    else:  # a number that tells which row of the log a candidate is
        features["n"] = {"side": "item", "type": "number"}
        if draw(st.booleans()):
            settings["negatives"] = {"keep": 0.7, "seed": draw(st.integers(0, 9))}
    return settings


def numbered(log):
    """The rows with their number, the file that holds them, and what follows from item and time."""
    rows = []
    for n, row in enumerate([*log, *ANCHORS]):
        t, item = row["t"], row["i"]
        dwell = None if item == "b" or t is None or item is None else float(t % 4 + ord(item))
        rows.append({**row, "n": n, "dwell": dwell, "file": SPLITS[n % 3]})
    return rows


def rounded(value):
    """Something to compare: numbers as stored, to four digits, lists as tuples, NaN as None."""
    if isinstance(value, float):
        return None if math.isnan(value) else round(float(np.float32(value)), 4) + 0.0
    return tuple(rounded(each) for each in value) if isinstance(value, list | tuple) else value


def prepared(workshop, settings, log, users):
    """The data set."""
    settings = {k: dict(v) if isinstance(v, dict) else v for k, v in settings.items()}
    schema = pa.schema(COLUMNS)
    tables = {"items": pa.Table.from_pylist(ITEM_TABLE, pa.schema(ITEMS))}
    if users is not None:
        settings["users"] = {"key": "u"}
        tables["users"] = pa.Table.from_pylist(users, pa.schema(USERS))
    if settings["split"]["by"] == "files":
        for split in SPLITS:
            rows = [row for row in log if row["file"] == split]
            settings["split"][split] = workshop.write(split, pa.Table.from_pylist(rows, schema))
    else:
        tables["log"] = pa.Table.from_pylist(log, schema)
    return workshop.prepare(settings, **tables)


def candidates_of(request, features):
    """One tuple a candidate: what the model reads of its request and of itself, and its labels."""
    steps = {}
    for name, history in request["histories"].items():
        columns = ["raw_time", "raw_item", *(c for c in history if not c.startswith("raw_"))]
        steps[name] = list(zip(*(history[c] for c in columns), strict=True))
    own = [request["request"][n] for n in features if n in request["request"]]
    for each in request["candidates"]:
        its = [each[n] for n in features if n in each and n != "n"]
        yield rounded((request["user"], request["time"], own, list(steps.values()), its)), each


def expected(reference, row, features):
    """The same of a row of the log."""
    sides = [reference.settings["features"][n]["side"] for n in features]
    own = [
        reference.value(n, row)
        for n, s in zip(features, sides, strict=True)
        if s in ("user", "context")
    ]
    its = [
        reference.value(n, row)
        for n, s in zip(features, sides, strict=True)
        if s == "item" and n != "n"
    ]
    histories = reference.settings["histories"]
    steps = [reference.history(name, row["u"], row["t"]) for name in histories]
    return rounded((row["u"], row["t"], own, steps, its))


def is_unknown(kind, value):
    if kind == "ids":
        return not any(each is not None for each in value)
    if kind == "vector":
        return not any(value)
    return value is None or (kind == "number" and math.isnan(value))


@pytest.fixture(scope="module", autouse=True)
def _small_pieces():
    """Pieces of three rows, so that requests cross from one piece into the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "_ROWS_A_PIECE", 3)
        yield


def check_fitted(dataset, reference):
    """Vocabularies in their order, and what numbers are standardised with."""
    for name, encoding in dataset.encoder.encodings.items():
        feature = reference.settings["features"][name]
        if feature["type"] in ("id", "ids"):
            known = encoding.vocabulary.values.to_pylist()
            assert known == reference.vocabulary[feature.get("space", name)], name
        elif feature["type"] == "number" and name != "n":
            mean, std = reference.statistics[name]
            assert (encoding.mean, encoding.std) == pytest.approx((mean, std)), name


def check_report(dataset, reference, found):
    """Counts and rates, from the examples as they are read back."""
    report, settings = dataset.manifest["report"], reference.settings
    assert report["rows_in"] == len(reference.log)
    assert report["rows_dropped"] == dict(reference.dropped)
    assert report["rows"] == {s: list(reference.split.values()).count(s) for s in SPLITS}
    assert report["users"] == len(
        {reference.log[n]["u"] for n in reference.kept} | set(reference.tables["user"])
    )
    assert report["items"] == len(
        {reference.log[n]["i"] for n in reference.kept} | set(reference.tables["item"])
    )
    for name, history in settings["histories"].items():
        assert report["events"][name] == len(reference.entering(history))
    for split, requests in found.items():
        candidates = [each for request in requests for each in request["candidates"]]
        assert report["requests"][split] == len(requests)
        for place, task in enumerate(settings["tasks"]):
            labels = [c["labels"][place] for c in candidates if c["labels"][place] is not None]
            rate = sum(labels) / len(labels) if labels else 0.0
            assert report["label_rate"][split][task] == pytest.approx(rate, abs=1e-6)
        for name, rate in report["unknown_rate"][split].items():
            kind = settings["features"][name]["type"]
            values = [
                (each if name in each else request["request"])[name]
                for request in requests
                for each in request["candidates"]
            ]
            unknown = sum(is_unknown(kind, value) for value in values)
            assert rate == pytest.approx(unknown / len(values), abs=1e-6), name


def check_requests(requests):
    """Rows of one user, time and context are one request."""
    keys = [(r["user"], r["time"], *map(rounded, r["request"].values())) for r in requests]
    # contexts that differ may be the same to the model where something in them is unknown, or a
    # list is empty or has only NaN
    whole = [key for key in keys if "None" not in repr(key) and "()" not in repr(key)]
    assert len(whole) == len(set(whole))


def read_or_error(workshop, read, settings, log, users, reference):
    """The data set and its requests by split; or None where the reference says that it can't be."""
    sizes = Counter(reference.split.values())
    empty_history = not all(map(reference.entering, settings["histories"].values()))
    if len(sizes) < len(SPLITS) or empty_history:
        with pytest.raises(FinerankError, match=r"rows for train, valid and test|rows with|where"):
            prepared(workshop, settings, log, users)
        return None
    dataset = prepared(workshop, settings, log, users)
    return dataset, {split: read(dataset, split) for split in SPLITS}


def rows_of(dataset, requests):
    """Row number -> split, of candidates that hold their row's number."""
    if "n" not in dataset.encoder.encodings:
        return None
    encoding = dataset.encoder.encodings["n"]
    return {
        round(each["n"] * encoding.std + encoding.mean): split
        for split in SPLITS
        for request in requests[split]
        for each in request["candidates"]
    }


@PROPERTY
@pytest.mark.parametrize("by", ["time", "shares", "last", "random", "files"])
@given(data=st.data(), log=LOGS, users=USER_TABLE)
def test_every_rule(new_workshop, read, by, data, log, users):
    settings = data.draw(recipes(by))
    log, features = numbered(log), list(settings["features"])
    drawn = None
    if by == "random" or "keep" in settings.get("negatives", {}):
        try:
            dataset = prepared(new_workshop(), settings, log, users)
        except FinerankError as error:
            # nothing in a split, no negative kept, no vector in training, no event in a history
            if not error.where.endswith(("split", "negatives.keep", "features.v", ".where")):
                raise
            return
        drawn = rows_of(dataset, {split: read(dataset, split) for split in SPLITS})
    reference = Reference(settings, log, users, ITEM_TABLE, drawn)
    done = read_or_error(new_workshop(), read, settings, log, users, reference)
    if done is None:
        return
    dataset, found = done
    assert rows_of(dataset, found) == reference.split
    for split, requests in found.items():
        mine = [n for n, each in reference.split.items() if each == split]
        want = Counter(
            (expected(reference, log[n], features), tuple(reference.labels[n])) for n in mine
        )
        assert want == Counter(
            (inputs, tuple(each["labels"]))
            for request in requests
            for inputs, each in candidates_of(request, features)
        )
        check_requests(requests)
    check_fitted(dataset, reference)
    check_report(dataset, reference, found)


@PROPERTY
@pytest.mark.parametrize("by", ["time", "last", "files"])
@given(data=st.data(), log=LOGS, users=USER_TABLE)
def test_every_rule_of_sampled_negatives(new_workshop, read, by, data, log, users):
    settings = data.draw(recipes(by, sampled=True))
    log, features = numbered(log), list(settings["features"])
    reference = Reference(settings, log, users, ITEM_TABLE)
    done = None
    if any(1.0 in reference.labels[n] for n, s in reference.split.items() if s == "train"):
        done = read_or_error(new_workshop(), read, settings, log, users, reference)
    if done is None:
        return
    dataset, found = done
    negatives, report = settings["negatives"], dataset.manifest["report"]
    for split, requests in found.items():
        mine = [n for n, each in reference.split.items() if each == split]
        want = Counter(
            (expected(reference, log[n], features), tuple(reference.labels[n])) for n in mine
        )
        count = negatives["per_positive" if split == "train" else "evaluation"]
        exposed, drawn, lacking = Counter(), 0, 0
        for request in requests:
            met, pool = reference.met(request["user"], request["time"]), reference.pool()
            sampled = []  # since the last exposed candidate
            room, unknown, left = 0, [], set()
            for inputs, each in [*candidates_of(request, features), (None, None)]:
                if each is not None and each["item"] not in met:
                    sampled.append(each["item"])
                    assert set(each["labels"]) <= {0.0, None}
                    assert [x is None for x in each["labels"]] == unknown
                    assert each["item"] in left
                    row = {"u": request["user"], "i": each["item"]}
                    assert each["cat"] == reference.value("cat", row)
                    continue
                assert len(sampled) == len(set(sampled)) == room
                if each is None:
                    break
                exposed[inputs, tuple(each["labels"])] += 1
                sampled, unknown = [], [x is None for x in each["labels"]]
                left = {
                    item
                    for item in pool - met
                    if "within" not in negatives
                    or reference.value("cat", {"i": item}) == each["cat"]
                }
                positive = 1.0 in each["labels"]
                room = min(count, len(left)) if positive else 0
                drawn, lacking = drawn + room, lacking + count * positive - room
        assert exposed == want
        assert report["negatives"][split] == drawn
        assert report["negatives_lacking"][split] == lacking
    check_fitted(dataset, reference)
    check_report(dataset, reference, found)
