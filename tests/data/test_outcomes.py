"""Labels of what followed, against plain Python, and what an event log must have for them."""

import datetime as dt
import json
import math

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from finerank.errors import FinerankError

PROPERTY = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],
)
CLICK, ORDER = 3, 8  # horizons
RECIPE = {
    "log": {
        "user": "uid",
        "item": "iid",
        "time": "at",
        "event": "kind",
        "examples": "kind = 'view'",
    },
    "features": {"iid": {"side": "item", "type": "id"}},
    "histories": {"clicked": {"features": ["iid"], "where": "kind = 'click'", "max_length": 2}},
    "tasks": {
        "click": {"event": "click", "within": CLICK},
        "order": {"event": "order", "within": ORDER},
    },
    "split": {"by": "time", "valid_from": 40, "test_from": 60},
}
BY_LAST = {"by": "last", "valid": 1, "test": 1}


def event(uid, iid, at, kind):
    return {"uid": uid, "iid": iid, "at": at, "kind": kind}


EVENTS = st.lists(
    st.builds(
        event,
        st.sampled_from([1, 2]),
        st.sampled_from("ab"),
        st.integers(0, 80),
        st.sampled_from(["view", "view", "click", "order"]),
    ),
    min_size=20,
    max_size=60,
)
ANCHORS = [
    event(user, "a", at, kind)
    for user in (1, 2)
    for at, kind in [(1, "view"), (1, "click"), (2, "order"), (41, "view"), (61, "view")]
] + [event(1, "c", 80, "order")]


def changed(**settings):
    return {**json.loads(json.dumps(RECIPE)), **settings}


def splits_of(log, by):
    """Row number -> the split of an example."""
    examples = {n: row for n, row in enumerate(log) if row["kind"] == "view"}
    if by == "time":
        return {n: (r["at"] >= 40) + (r["at"] >= 60) for n, r in examples.items()}
    splits = {}
    for n, row in examples.items():
        moments = sorted({r["at"] for r in examples.values() if r["uid"] == row["uid"]})
        splits[n] = max(0, 2 - moments[::-1].index(row["at"]))
    return splits


def expected(log, by):
    """(split, user, item, time, labels, history) of each example with a known label."""
    splits, end = splits_of(log, by), max(row["at"] for row in log)
    for n, split in splits.items():
        row = log[n]
        later = [
            log[m]["at"]
            for m, other in splits.items()
            if other == split + 1 and (by == "time" or log[m]["uid"] == row["uid"])
        ]
        labels = []
        for kind, horizon in (("click", CLICK), ("order", ORDER)):
            until = row["at"] + horizon
            known = until < min(later) if later else until <= end
            mine = [e for e in log if (e["uid"], e["iid"]) == (row["uid"], row["iid"])]
            came = any(e["kind"] == kind and row["at"] <= e["at"] <= until for e in mine)
            labels.append(float(came) if known else None)
        past = [
            (e["at"], e["iid"])
            for e in log
            if e["kind"] == "click" and e["uid"] == row["uid"] and e["at"] < row["at"]
        ]
        if labels != [None, None]:
            yield split, row["uid"], row["iid"], row["at"], tuple(labels), tuple(sorted(past)[-2:])


def found(dataset, read):
    for split, name in enumerate(("train", "valid", "test")):
        for request in read(dataset, name):
            steps = request["histories"]["clicked"]
            history = tuple(zip(steps["raw_time"], steps["raw_item"], strict=True))
            for each in request["candidates"]:
                labels = tuple(each["labels"])
                yield split, request["user"], each["item"], request["time"], labels, history


@PROPERTY
@pytest.mark.parametrize("by", ["time", "last"])
@given(log=EVENTS)
def test_labels_say_what_followed_and_nothing_of_later_splits(new_workshop, read, by, log):
    log = log + ANCHORS
    settings = RECIPE if by == "time" else changed(split=BY_LAST)
    want = sorted(expected(log, by), key=repr)
    if {each[0] for each in want} != {0, 1, 2}:
        with pytest.raises(FinerankError, match="rows for train, valid and test"):
            new_workshop().prepare(settings, log=log)
        return
    dataset = new_workshop().prepare(settings, log=log)
    assert sorted(found(dataset, read), key=repr) == want
    report = dataset.manifest["report"]
    assert sum(report["rows"].values()) == len(want)
    views = sum(row["kind"] == "view" for row in log)
    dropped = report["rows_dropped"]
    assert dropped["not an example"] == len(log) - views
    assert dropped.get("outcome not known yet", 0) == views - len(want)


def test_a_positive_whose_horizon_is_not_over_is_not_counted(workshop, read):
    """Else the last examples before a cut would be positives only."""
    log = [*ANCHORS, event(1, "b", 38, "view"), event(1, "b", 38, "click")]
    dataset = workshop.prepare(RECIPE, log=log)
    items = [c["item"] for request in read(dataset, "train") for c in request["candidates"]]
    assert "b" not in items
    one_earlier = [*ANCHORS, event(1, "b", 36, "view"), event(1, "b", 36, "click")]
    read_back = read(workshop.prepare(RECIPE, out="other", log=one_earlier), "train")
    labels = [
        c["labels"] for request in read_back for c in request["candidates"] if c["item"] == "b"
    ]
    assert labels == [[1.0, None]]  # its order may come yet


@pytest.mark.parametrize("kind", ["timestamp", "date"])
def test_horizons_of_moments(workshop, read, kind):
    start = dt.datetime(2024, 1, 1)  # noqa: DTZ001
    log = [{**row, "at": start + dt.timedelta(days=row["at"])} for row in ANCHORS]
    if kind == "date":
        log = [{**row, "at": row["at"].date()} for row in log]
    tasks = {
        "click": {"event": "click", "within": "12h"},
        "order": {"event": "order", "within": "1d"},
    }
    split = {"by": "time", "valid_from": "2024-02-11", "test_from": "2024-03-02"}
    dataset = workshop.prepare(changed(tasks=tasks, split=split), log=log)
    labels = [c["labels"] for request in read(dataset, "train") for c in request["candidates"]]
    assert labels == [[1.0, 1.0]] * 2
    labels = [c["labels"] for request in read(dataset, "test") for c in request["candidates"]]
    assert labels == [[0.0, 0.0]] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {"x": {"event": "click"}}}, "tasks.x: expected event and within together"),
        ({"tasks": {"x": {"label": "1", "within": 3}}}, "found within beside label"),
        ({"tasks": {"x": {"weight": 2}}}, "tasks.x: expected either label or event"),
        (
            {"tasks": {"x": {"event": "click", "within": "3 days"}}},
            "tasks.x.within: expected a duration such as 30m, 12h or 7d, found '3 days'",
        ),
        ({"tasks": {"x": {"event": "click", "within": 0}}}, "tasks.x.within"),
        (
            {"tasks": {"x": {"event": "click", "within": "3d"}}},
            r"tasks.x.within: expected a number, in the unit of log.time.*found '3d'",
        ),
        (
            {"tasks": {"x": {"event": "clik", "within": 3}}},
            "tasks.x.event: expected a value of 'kind', found 'clik', which no row has. "
            "There is: view, order, click",
        ),
        ({"split": {"by": "random"}}, "split.by: expected time or last, for tasks with event"),
        ({"log": {**RECIPE["log"], "examples": None}}, "log.examples: expected a condition"),
        ({"log": {**RECIPE["log"], "event": None}}, "log.event: expected a column, for tasks"),
        ({"log": {**RECIPE["log"], "event": "kin"}}, "log.event: .*Did you mean 'kind'"),
        ({"log": {**RECIPE["log"], "examples": "kin = 1"}}, r"log.examples .*Did you mean 'kind'"),
        ({"log": {**RECIPE["log"], "examples": "at"}}, "log.examples: expected a condition"),
        ({"log": {**RECIPE["log"], "examples": "at < 0"}}, "log: expected rows with .* and at < 0"),
    ],
)
def test_what_an_event_log_must_have(workshop, changes, message):
    with pytest.raises(FinerankError, match=message):
        workshop.prepare(changed(**changes), log=ANCHORS)


def test_numbers_do_not_fit_moments(workshop):
    start = dt.datetime(2024, 1, 1)  # noqa: DTZ001
    log = [{**row, "at": start + dt.timedelta(days=row["at"])} for row in ANCHORS]
    split = {"by": "time", "valid": 0.2, "test": 0.2}
    with pytest.raises(FinerankError, match="expected a duration such as 30m, 12h or 7d, as log"):
        workshop.prepare(changed(split=split), log=log)


def test_missing_labels_are_null_not_zero(workshop):
    dataset = workshop.prepare(RECIPE, log=ANCHORS)
    order = dataset.split("test").labels[1]
    assert not any(math.isnan(each) for each in order.tolist())
    rates = dataset.manifest["report"]["label_rate"]
    assert rates["train"] == {"click": 1.0, "order": 1.0}
    assert rates["valid"] == {"click": 0.0, "order": 0.0}


@pytest.mark.parametrize("by", ["time", "last"])
def test_what_steps_hold_is_known_though_it_is_no_example(workshop, by):
    """Types and items of events that aren't examples, as long as validation hasn't begun."""
    features = {**RECIPE["features"], "kind": {"side": "history", "type": "id"}}
    histories = {"past": {"features": ["iid", "kind"], "where": "kind <> 'ignored'"}}
    log = [
        *ANCHORS,
        event(1, "early", 12, "order"),
        event(1, "late", 70, "refund"),
        event(1, "never", 12, "ignored"),
    ]
    split = RECIPE["split"] if by == "time" else BY_LAST
    dataset = workshop.prepare(
        changed(features=features, histories=histories, split=split), log=log
    )
    encodings = dataset.encoder.encodings
    assert set(encodings["kind"].vocabulary.values.to_pylist()) == {"view", "click", "order"}
    assert set(encodings["iid"].vocabulary.values.to_pylist()) == {"a", "early"}
