"""Sampled negatives in a prepared data set, against plain Python over the raw rows."""

import json
import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from negative_logs import ANCHORS, EVENTS, ITEMS, KINDS, RECIPE, event

from finerank.errors import FinerankError
from finerank.settings import SPLITS

PROPERTY = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],
)


def changed(**negatives):
    return {**json.loads(json.dumps(RECIPE)), "negatives": negatives}


def split_of(row):
    return "train" if row["at"] < 20 else "valid" if row["at"] < 25 else "test"


def labels_of(row):
    return [None if row[key] is None else float(row[key]) for key in ("click", "bought")]


@PROPERTY
@pytest.mark.parametrize(
    "negatives",
    [
        {"per_positive": 2, "evaluation": 3},
        {"per_positive": 1, "by": "uniform", "exclude": "before"},
        {"per_positive": 4, "within": "kind", "power": 0.0},
    ],
)
@given(log=EVENTS)
def test_every_rule(new_workshop, read, negatives, log):
    log = log + ANCHORS
    dataset = new_workshop().prepare(changed(**negatives), log=log, items=ITEMS)
    examples = [row for row in log if labels_of(row) != [None, None]]
    train = [row for row in examples if split_of(row) == "train"]
    pool = {row["iid"] for row in train}
    if negatives.get("by") != "uniform":
        pool = {row["iid"] for row in train if 1.0 in labels_of(row)}
    report = dataset.manifest["report"]
    for split in SPLITS:
        count = negatives["per_positive"] if split == "train" else negatives.get("evaluation")
        count = count or negatives["per_positive"]
        expected = Counter(
            (row["uid"], row["at"], row["iid"], tuple(labels_of(row)))
            for row in examples
            if split_of(row) == split
        )
        found, drawn, lacking = Counter(), 0, 0
        for request in read(dataset, split):
            user, now = request["user"], request["time"]
            met = {
                row["iid"]
                for row in log
                if row["uid"] == user and (negatives.get("exclude") != "before" or row["at"] <= now)
            }
            own = [c for c in request["candidates"] if c["item"] in met]
            sampled = [c for c in request["candidates"] if c["item"] not in met]
            found.update((user, now, c["item"], tuple(c["labels"])) for c in own)
            positives = [c for c in own if 1.0 in c["labels"]]
            most = 0
            for positive in positives:
                left = {
                    item
                    for item in pool - met
                    if "within" not in negatives or KINDS[item] == KINDS[positive["item"]]
                }
                most += min(count, len(left))
                lacking += count - min(count, len(left))
            assert len(sampled) == most
            drawn += most
            assert {c["item"] for c in sampled} <= pool
            for each in sampled:
                assert set(each["labels"]) <= {0.0, None}
                assert each["iid"] == each["item"]
                assert each["kind"] in (KINDS[each["item"]], None)
        assert found == expected  # what was exposed is there as it was, once
        assert report["negatives"][split] == drawn
        assert report["negatives_lacking"][split] == lacking
        assert report["rows"][split] == sum(expected.values())


def test_behind_each_positive_stand_its_negatives(workshop, read):
    """Labels are 0 where the positive's are known; an unclicked row gets no negatives."""
    log = [*ANCHORS, event(5, "d", 4, 0, None), event(6, "e", 28, 1, 0), event(7, "d", 5, 1, 1)]
    dataset = workshop.prepare(changed(per_positive=1), log=log, items=ITEMS)
    by_time = {r["time"]: r["candidates"] for r in read(dataset, "train")}
    assert [c["labels"] for c in by_time[1]] == [[1.0, 0.0], [0.0, 0.0]]
    assert [c["labels"] for c in by_time[4]] == [[0.0, None]]
    (unlabelled,) = [r["candidates"] for r in read(dataset, "test") if r["time"] == 27]
    assert [c["labels"] for c in unlabelled] == [[1.0, None], [0.0, None]]
    rates = dataset.manifest["report"]["label_rate"]["train"]["click"]
    assert rates == pytest.approx(4 / 9)


def test_an_item_whose_row_was_dropped_was_met_too(workshop, read):
    """A row without a label is no example, but the user met the item."""
    settings = {k: v for k, v in changed(per_positive=7).items() if k != "histories"}
    log = [*ANCHORS, event(6, "c", 29, None, None)]
    dataset = workshop.prepare(settings, log=log, items=ITEMS)
    met = {c["item"] for r in read(dataset, "test") for c in r["candidates"]}
    assert met == {"a"}  # 6 met a, b, and c; the pool is a, b, c


def test_the_items_id_may_stand_in_the_log(workshop, read):
    settings = changed(per_positive=2)
    del settings["items"], settings["features"]["kind"]
    dataset = workshop.prepare(settings, log=ANCHORS)
    for request in read(dataset, "train"):
        assert [c["iid"] for c in request["candidates"]] == [
            c["item"] for c in request["candidates"]
        ]
    assert dataset.manifest["report"]["negatives"]["train"] == 3  # of b, of b, of c


def test_the_seed_decides(workshop):
    log = [event(u, "abcdefg"[(u * k) % 7], u % 29, 1, 0) for u in range(60) for k in (1, 2)]

    def items(out, **negatives):
        negatives = {"per_positive": 1, **negatives}
        dataset = workshop.prepare(changed(**negatives), out, log=log, items=ITEMS)
        return dataset.split("train").item.tolist()

    assert items("one") == items("two")
    assert items("one") != items("three", seed=1)


def test_popularity_is_of_the_training_period(workshop):
    """Item b is popular in the test period only, item a in training."""
    log = [event(u, "a", u % 19, 1, 0) for u in range(100, 190)]
    log += [event(u, "b", 26, 1, 0) for u in range(190, 400)]
    log += [event(u, "b", 3, 1, 0) for u in range(400, 410)]
    log += [event(u, "c", 21, 1, 0) for u in range(410, 420)]
    log += [event(u, "d", u % 18, 1, 0) for u in range(500, 800)]
    dataset = workshop.prepare(changed(per_positive=1, power=1.0), log=log, items=ITEMS)
    examples = dataset.split("train")
    assert examples.item is not None
    keys = dataset.items.keys.decode(examples.item.numpy())
    labels = examples.labels[0].tolist()
    of_d = Counter(
        negative
        for positive, negative, label in zip(keys, keys[1:], labels[1:], strict=False)
        if positive == "d" and label == 0.0
    )
    assert set(of_d) == {"a", "b"}  # c is no item of the training period
    share = of_d["a"] / of_d.total()
    assert share == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 300))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negatives": {"per_positive": -1}}, "negatives.per_positive"),
        ({"negatives": {"per_positive": 1, "by": "random"}}, "negatives.by: "),
        ({"negatives": {"per_positive": 1, "within": "kin"}}, "of type id, found 'kin'.*'kind'"),
        ({"negatives": {"per_positive": 1, "within": "uid"}}, "a feature of the item table"),
        ({"tasks": {"x": "0"}}, "negatives: expected positives in the training set, found labels"),
        (
            {
                "features": {
                    "iid": {"side": "item", "type": "id"},
                    "at": {"side": "item", "type": "number"},
                }
            },
            "features.at: expected item features in the item table, beside sampled negatives",
        ),
        (
            {
                "log": {"user": "uid", "time": "at"},
                "items": None,
                "features": {"uid": {"side": "user", "type": "id"}},
                "histories": {},
            },
            "log.item: expected a column, for sampled negatives",
        ),
        (
            {
                "log": {"user": "uid", "item": "iid"},
                "histories": {},
                "split": {"by": "random"},
                "negatives": {"per_positive": 1, "exclude": "before"},
            },
            "log.time: expected a column, for negatives.exclude: before",
        ),
    ],
)
def test_what_is_wrong(workshop, changes, message):
    settings = {**changed(per_positive=1), **changes}
    tables = {"log": ANCHORS}
    if settings["items"] is None:
        del settings["items"]
    else:
        tables["items"] = ITEMS
    with pytest.raises(FinerankError, match=message):
        workshop.prepare(settings, **tables)
