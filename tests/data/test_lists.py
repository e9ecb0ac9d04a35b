"""Ready-made histories against plain Python, for random small logs; and what can be wrong."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from finerank.checks.checker import check
from finerank.data import assembly
from finerank.data.arrow_file import read_columns
from finerank.data.batch import Jagged
from finerank.data.lists import Listed
from finerank.errors import FinerankError
from finerank.settings import SPLITS

VALID_FROM, TEST_FROM = 20, 25
RECIPE = {
    "log": {"user": "uid", "item": "iid", "time": "at"},
    "items": {"key": "iid"},
    "features": {
        "uid": {"side": "user", "type": "id"},
        "iid": {"side": "item", "type": "id"},
        "tags": {"side": "item", "type": "ids"},
        "cat": {"side": "item", "type": "id"},
        "device": {"side": "context", "type": "id"},
        "stars": {"side": "history", "type": "number"},
    },
    "histories": {
        "clicked": {
            "features": ["iid", "tags", "stars"],
            "lists": {"iid": "past", "stars": "past_stars"},
        },
        "carted": {"lists": {"cat": "cart"}, "newest": "first", "max_length": 2},
        "seen": {"features": ["iid"], "max_length": 2},
    },
    "tasks": {"like": "liked"},
    "split": {"by": "time", "valid_from": VALID_FROM, "test_from": TEST_FROM},
}
TAGS = {1: ["red", "big"], 2: ["red"], 3: [], 4: ["never"]}
CATS = {1: "x", 2: "y", 3: None, 4: "z"}
ITEMS = pa.Table.from_pylist([{"iid": i, "tags": TAGS[i], "cat": CATS[i]} for i in TAGS])


def row(uid, iid, at, device, past, cart, liked=1):
    steps = None if past is None else [item for item, _ in past]
    stars = None if past is None else [star for _, star in past]
    return {"uid": uid, "iid": iid, "at": at, "device": device, "past": steps,
            "past_stars": stars, "cart": cart, "liked": liked}  # fmt: skip


STEPS = st.tuples(st.sampled_from([1, 2, 4, 6, None]), st.sampled_from([1.0, 5.0, 2.5, None]))
LOGS = st.lists(
    st.builds(
        row,
        st.sampled_from([1, 2]),
        st.sampled_from([1, 2, 3, 5]),
        st.sampled_from([2, 12, 21, 29]),
        st.sampled_from(["phone", "desk"]),
        st.none() | st.lists(STEPS, max_size=5),
        st.none() | st.lists(st.sampled_from(["x", "y", "w", None]), max_size=4),
        st.sampled_from([0, 1]),
    ),
    min_size=10,
    max_size=30,
)
ANCHORS = [
    row(1, 1, 2, "phone", [(1, 1.0), (2, None), (4, 5.0)], ["x"]),
    row(1, 1, VALID_FROM, "phone", [(7, 2.0), (2, None), (None, 5.0)], ["x", "q"]),
    row(2, 2, TEST_FROM, "desk", [], None),
]
TYPES = pa.schema(
    [
        *((name, pa.int64()) for name in ("uid", "iid", "at")),
        ("device", pa.string()),
        ("past", pa.list_(pa.int64())),
        ("past_stars", pa.list_(pa.float64())),
        ("cart", pa.list_(pa.string())),
        ("liked", pa.int64()),
    ]
)


def split_of(each):
    return "train" if each["at"] < VALID_FROM else "valid" if each["at"] < TEST_FROM else "test"


def as_text(values):
    return (
        None if values is None else " | ".join("" if each is None else f"{each}" for each in values)
    )


def newest(history, values):
    """The steps that are kept, oldest first."""
    values = values or []
    if history.get("newest") == "first":
        values = values[::-1]
    return values[-history.get("max_length", 50) :]


class Reference:
    """What the data set of a log must hold, in plain Python."""

    def __init__(self, histories, log):
        self.histories, self.log = histories, log
        train = [each for each in log if split_of(each) == "train"]
        stepped = [item for each in train for item, _ in self.past(each)]
        items = [each["iid"] for each in train] + stepped
        self.known = {
            "iid": {*items} - {None},
            "tags": {tag for item in items for tag in TAGS.get(item, [])},
            "cat": {CATS.get(each["iid"]) for each in train}
            | {cat for each in train for cat in newest(histories["carted"], each["cart"])},
        }
        stars = [star for each in train for _, star in self.past(each) if star is not None]
        self.mean = np.mean(stars)
        self.std = np.std(stars) if np.std(stars) > 1e-9 else 1.0

    def past(self, each):
        items, stars = (newest(self.histories["clicked"], each[c]) for c in ("past", "past_stars"))
        return list(zip(items, stars, strict=True))

    def id(self, space, value):
        return value if value in self.known[space] else None

    def steps(self, each):
        tags = self.known["tags"]
        return (
            tuple(
                (
                    self.id("iid", item),
                    tuple(tag if tag in tags else None for tag in TAGS.get(item, [])),
                    None if star is None else round((star - self.mean) / self.std, 4) + 0.0,
                )
                for item, star in self.past(each)
            ),
            tuple(self.id("cat", cat) for cat in newest(self.histories["carted"], each["cart"])),
        )

    def rows(self, split):
        for each in self.log:
            if split_of(each) == split:
                seen = [e for e in self.log if e["uid"] == each["uid"] and e["at"] < each["at"]]
                count = min(2, len(seen))
                yield (
                    each["uid"],
                    each["at"],
                    each["iid"],
                    each["liked"],
                    count,
                    *self.steps(each),
                )


def found_rows(dataset, split):
    """The examples of a split as the reference has them, and how many requests they are."""
    examples = dataset.split(split)
    decode = {
        name: dataset.encoder.encodings[name].vocabulary.decode for name in ("iid", "tags", "cat")
    }
    times = read_columns(dataset.folder / split / "requests.arrow")["time"].tolist()
    rows = []
    for request, time in enumerate(times):
        batch = examples.batch(torch.tensor([request]))
        clicked, carted = (batch.histories[name].columns for name in ("clicked", "carted"))
        tags, stars = clicked["tags"], clicked["stars"].tolist()
        assert isinstance(tags, Jagged)
        tags = [decode["tags"](tags.values[a:b]) for a, b in pairwise(tags.offsets.tolist())]
        steps = tuple(
            (item, tuple(each), None if math.isnan(star) else round(star, 4) + 0.0)
            for item, each, star in zip(decode["iid"](clicked["iid"]), tags, stars, strict=True)
        )
        user = dataset.users.keys.decode(batch.user.numpy())[0]
        seen = int(batch.histories["seen"].offsets[1])
        carts = tuple(decode["cat"](carted["cat"]))
        first, end = examples.first_candidate[request : request + 2].tolist()
        items = dataset.items.keys.decode(examples.item[first:end].numpy())
        for item, label in zip(items, batch.labels[:, 0].tolist(), strict=True):
            rows.append((user, time, item, label, seen, steps, carts))
    return rows, len(times)


@pytest.fixture(scope="module", autouse=True)
def _small_pieces():
    """Pieces of three rows, so that requests cross from one piece into the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "_ROWS_A_PIECE", 3)
        yield


def prepared(workshop, log, histories=RECIPE["histories"], schema=TYPES, **parts):
    table = pa.Table.from_pylist(log, schema=schema)
    recipe = {**RECIPE, "histories": histories, **parts}
    return workshop.prepare(recipe, log=table, items=ITEMS)


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],  # an example takes a second: shrinking would take minutes
)
@given(LOGS, st.sampled_from(["last", "first"]), st.integers(1, 4), st.booleans())
def test_every_row_comes_back_with_the_newest_of_its_lists(
    new_workshop, log, end, max_length, in_text
):
    if in_text:  # where one null alone can't be told from nothing
        log = [{**e, "past": None, "past_stars": None} if e["past"] == [None] else e for e in log]
        log = [{**e, "past_stars": [1.0]} if e["past_stars"] == [None] else e for e in log]
    log = log + ANCHORS
    clicked = {**RECIPE["histories"]["clicked"], "newest": end, "max_length": max_length}
    histories = {**RECIPE["histories"], "clicked": clicked}
    reference = Reference(histories, log)
    written, types = log, TYPES
    if in_text:
        histories = {**histories, "clicked": {**clicked, "separator": "|"}}
        texts = [{name: as_text(e[name]) for name in ("past", "past_stars")} for e in log]
        written = [{**e, **text} for e, text in zip(log, texts, strict=True)]
        for place in (4, 5):
            types = types.set(place, pa.field(types.names[place], pa.string()))
    dataset = prepared(new_workshop(), written, histories, types)
    for split in SPLITS:
        rows, requests = found_rows(dataset, split)
        assert Counter(rows) == Counter(reference.rows(split))
        mine = [e for e in log if split_of(e) == split]
        raw = {repr([e[k] for k in e if k not in ("iid", "liked")]) for e in mine}
        steps = {(e["uid"], e["at"], e["device"], reference.steps(e)) for e in mine}
        assert len(steps) <= requests <= len(raw)  # rows with the same lists are one request
    report = check(dataset.folder, sample=1000)
    assert report.passed, [each for each in report.checks if each.status == "failed"]
    names = [each.name for each in report.checks if each.status == "not checked"]
    assert names == ["time order clicked", "time order carted"]


def test_rows_of_one_request_share_the_steps_that_are_stored_once(workshop):
    log = [
        row(1, item, at, "phone", [(1, 1.0), (2, 3.0), (4, None)], ["x", "y"])
        for at in (2, VALID_FROM, TEST_FROM)
        for item in (1, 2, 3)
    ]
    log += [row(1, 5, 2, "phone", [(2, 3.0), (4, None)], ["x", "y"])]
    dataset = prepared(workshop, log)
    assert dataset.manifest["report"]["events"]["clicked"] == 3 + 2 + 3  # the two before between
    assert dataset.manifest["report"]["requests"] == {"train": 2, "valid": 1, "test": 1}
    store = dataset.stores["carted"]
    cat = dataset.encoder.encodings["cat"].vocabulary
    assert cat.decode(store.columns["cat"].numpy()) == ["y", "x"]  # newest first, turned around
    assert dataset.manifest["report"]["rows"] == {"train": 4, "valid": 3, "test": 3}


def test_no_user_no_time_no_item_table(workshop):
    log = [
        {"iid": i % 3, "past": [i % 3, 7][: i % 3] if i % 5 else None, "click": i % 2}
        for i in range(40)
    ]
    recipe = {
        "log": {},
        "features": {"iid": {"side": "item", "type": "id"}},
        "histories": {"clicked": {"lists": {"iid": "past"}}},
        "tasks": {"click": "click"},
        "split": {"by": "random", "valid": 0.2, "test": 0.2},
    }
    dataset = workshop.prepare(recipe, log=log)
    vocabulary = dataset.encoder.encodings["iid"].vocabulary
    assert vocabulary.decode(np.arange(1, len(vocabulary))).count(7) == 1  # only lists have it
    found = Counter()
    for split in SPLITS:
        examples = dataset.split(split)
        batch = examples.batch(torch.arange(examples.num_requests))
        steps = batch.histories["clicked"]
        bounds = pairwise(steps.offsets.tolist())
        ids = [vocabulary.decode(steps.columns["iid"][a:b].numpy()) for a, b in bounds]
        items = vocabulary.decode(batch.candidate["iid"].numpy())
        found.update((item, tuple(each)) for item, each in zip(items, ids, strict=True))
    assert found == Counter((each["iid"], tuple(each["past"] or ())) for each in log)
    report = check(dataset.folder)
    assert report.passed


LISTS = st.lists(
    st.none()
    | st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.5, math.nan])), max_size=3),
    min_size=1,
    max_size=8,
)


@given(LISTS, st.integers(0, 3))
def test_where_steps_change(lists, cut):
    def listed(rows):
        steps = [step for each in rows for step in each or ()]
        offsets = np.cumsum([0, *(len(each or ()) for each in rows)])
        numbers = pa.array([n for _, n in steps], pa.float32(), from_pandas=False)
        return Listed(offsets, np.array([i for i, _ in steps], np.int32), {"n": numbers})

    shown = [repr(each or []) for each in lists]
    expected = [True, *(a != b for a, b in pairwise(shown))]
    assert listed(lists).changes().tolist() == expected
    cut = min(cut, len(lists) - 1)
    if cut:
        before = listed(lists[:cut]).take(np.array([cut - 1]))
        assert listed(lists[cut:]).changes(before).tolist() == expected[cut:]


def history(**settings):
    features = {name: each for name, each in RECIPE["features"].items() if name != "stars"}
    if "stars" in {*settings.get("lists", ()), *settings.get("features", ())}:
        features = RECIPE["features"]  # whose column is a list's
    return {"features": features, "histories": {"clicked": settings}}


def feature(name, **settings):
    return {"features": {**RECIPE["features"], name: settings}}


WRONG = {
    "features of several ids": (
        history(lists={"tags": "past"}),
        r"histories.clicked.lists.tags: expected a feature of type id or number, one value a step, "
        "found type: ids",
    ),
    "a feature without a list": (
        history(features=["cat", "stars"], lists={"stars": "past_stars"}),
        r"histories.clicked.lists: expected a list for 'cat', or one of the feature that is the "
        "item's id, found lists for stars",
    ),
    "a feature of the log without a list": (
        {**history(features=["iid", "stars"], lists={"iid": "past"}),
         **feature("stars", side="history", type="number", column="at")},
        "histories.clicked.features: expected features of the item table beside those of the "
        "lists, found 'stars' in the log",
    ),
    "another's feature": (
        history(lists={"device": "past"}),
        "histories.clicked.features: expected features of side item or history",
    ),
    "lists of no feature": (
        history(features=["iid"], lists={"iid": "past", "cat": "cart"}),
        "histories.clicked.lists: expected lists of the history's features, found 'cat'",
    ),
    "where": (
        history(lists={"iid": "past"}, where="liked = 1"),
        "histories.clicked: expected no lists, which hold their steps ready-made, beside where",
    ),
    "max_age": (history(lists={"iid": "past"}, max_age=5), "beside max_age, found 5"),
    "newest": (
        history(features=["iid"], newest="first"),
        "histories.clicked: expected lists beside newest, found 'first'",
    ),
    "separator": (history(features=["iid"], separator="|"), "expected lists beside separator"),
    "neither": (history(max_length=3), "histories.clicked.features: expected this key, or lists"),
    "no such column": (
        history(lists={"iid": "pasts"}),
        "histories.clicked.lists.iid: expected a column 'pasts', found no such column",
    ),
    "no lists": (
        history(lists={"iid": "uid"}),
        "histories.clicked.lists.iid: expected a list column, or text and a separator, "
        "found 'uid' of type int64 without a separator",
    ),
    "lists beside a separator": (
        history(lists={"iid": "past"}, separator="|"),
        r"found 'past' of type array<int64> beside a separator",
    ),
    "text for numbers": (
        history(lists={"stars": "cart"}),
        "histories.clicked.lists.stars: expected lists of numbers, found 'cart'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(workshop, name):
    parts, message = WRONG[name]
    with pytest.raises(FinerankError, match=message):
        prepared(workshop, ANCHORS, **{"histories": RECIPE["histories"], **parts})


def test_lists_of_different_lengths_name_the_row(workshop):
    wrong = {**ANCHORS[1], "past_stars": [1.0]}
    with pytest.raises(
        FinerankError,
        match=r"histories.clicked.lists: expected lists of one length in each row, found 3 in "
        r"'past', 1 in 'past_stars', in the row with user 1, item 1, time 20",
    ):
        prepared(workshop, [*ANCHORS, wrong])
    with pytest.raises(FinerankError, match="found 3 in 'past', 0 in 'past_stars', in the row"):
        prepared(workshop, [*ANCHORS, {**wrong, "past_stars": None}])


def test_empty_lists_only(workshop):
    log = [{**each, "cart": [] if each["uid"] == 1 else None} for each in ANCHORS]
    with pytest.raises(FinerankError, match=r"histories.carted.lists: expected lists with steps"):
        prepared(workshop, log)
