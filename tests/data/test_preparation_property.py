"""A prepared data set against plain Python over the raw rows, for random small logs."""

import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from finerank.data import assembly
from finerank.settings import SPLITS

PROPERTY = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],  # an example takes a second: shrinking would take minutes
)
VALID_FROM, TEST_FROM = 20, 25
TIMES = (2, 7, 12, 18, 20, 23, 25, 29)  # few, so that many rows are of one time

RECIPE = {
    "log": {"user": "uid", "item": "iid", "time": "at"},
    "users": {"key": "uid"},
    "items": {"key": "iid"},
    "features": {
        "uid": {"side": "user", "type": "id"},
        "country": {"side": "user", "type": "id", "min_count": 2},
        "iid": {"side": "item", "type": "id"},
        "tags": {"side": "item", "type": "ids", "separator": ","},
        "price": {"side": "item", "type": "number"},
        "device": {"side": "context", "type": "id"},
        "hour": {"side": "context", "type": "number"},
        "dwell": {"side": "history", "type": "number"},
    },
    "histories": {
        "liked": {"features": ["iid", "tags", "dwell"], "where": "rating >= 4", "max_length": 3},
        "seen": {"features": ["iid"], "max_length": 2, "max_age": 6},
    },
    "tasks": {"like": "rating >= 4", "done": "done"},
    "split": {"by": "time", "valid_from": VALID_FROM, "test_from": TEST_FROM},
}
USERS = [{"uid": u, "country": c} for u, c in [(1, "FR"), (2, "FR"), (3, "DE"), (9, None)]]
ITEMS = [
    {"iid": "a", "tags": "red, big", "price": 1.5},
    {"iid": "b", "tags": "red,,blue", "price": None},
    {"iid": "c", "tags": None, "price": -2.0},
    {"iid": "z", "tags": "never", "price": math.inf},
]
PLACES = {1: "FR", 2: "FR", 3: "DE", 9: None}
TAGS = {"a": ["red", "big"], "b": ["red", "blue"], "c": [], "z": ["never"]}
PRICES = {"a": 1.5, "c": -2.0}


def event(uid, iid, at, rating, done, device, hour):
    dwell = None if iid == "b" else float(at % 4 + ord(iid))
    row = {"uid": uid, "iid": iid, "at": at, "rating": rating, "done": done, "device": device}
    return {**row, "hour": hour, "dwell": dwell}


def events(first=0):
    return st.lists(
        st.builds(
            event,
            st.sampled_from([1, 2, 3, 4]),
            st.sampled_from("abcde"),
            st.sampled_from([time for time in TIMES if time >= first]),
            st.sampled_from([1, 5, 4, None]),
            st.sampled_from([True, False, None]),
            st.sampled_from(["phone", "desk", None]),
            st.sampled_from([0.0, 0.0, 7.5, None]),
        ),
        min_size=15,
        max_size=40,
    )


ANCHORS = [
    event(1, "a", 7, 5, True, "phone", 0.0),
    event(2, "d", 7, 1, True, "desk", 7.5),  # so that contexts that differ are encoded apart
    event(1, "b", VALID_FROM, 1, False, "desk", 0.0),
    event(1, "c", TEST_FROM, 4, None, "phone", None),
]


def split_of(row):
    return "train" if row["at"] < VALID_FROM else "valid" if row["at"] < TEST_FROM else "test"


def labels_of(row):
    like = None if row["rating"] is None else float(row["rating"] >= 4)
    return [like, None if row["done"] is None else float(row["done"])]


def is_example(row):
    return labels_of(row) != [None, None]


class Reference:
    """What the data set of RECIPE must hold, in plain Python."""

    def __init__(self, log):
        self.log = log
        examples = [row for row in log if is_example(row)]
        begins = min(row["at"] for row in examples if split_of(row) == "valid")
        train = [row for row in examples if split_of(row) == "train"]
        train += [row for row in log if not is_example(row) and row["at"] < begins]  # steps
        countries = Counter(PLACES.get(row["uid"]) for row in train)
        self.known = {
            "uid": {row["uid"] for row in train},
            "country": {c for c, n in countries.items() if c is not None and n >= 2},
            "iid": {row["iid"] for row in train},
            "device": {row["device"] for row in train} - {None},
            "tags": {tag for row in train for tag in TAGS.get(row["iid"], [])},
        }
        self.statistics = {
            "price": self._statistics([PRICES.get(row["iid"]) for row in train]),
            "hour": self._statistics([row["hour"] for row in train]),
            "dwell": self._statistics([row["dwell"] for row in train]),
        }

    @staticmethod
    def _statistics(values):
        values = [v for v in values if v is not None]
        if not values:
            return 0.0, 1.0
        mean = sum(values) / len(values)
        std = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        return mean, (std if std > 1e-9 else 1.0)

    def id(self, name, value):
        return value if value in self.known[name] else None

    def tags(self, item):
        return [self.id("tags", tag) for tag in TAGS.get(item, [])]

    def number(self, name, value):
        mean, std = self.statistics[name]
        return None if value is None else (value - mean) / std

    def history(self, row, *, where, length, age=math.inf):
        past = [
            e
            for e in self.log
            if e["uid"] == row["uid"] and row["at"] - age <= e["at"] < row["at"] and where(e)
        ]
        return sorted(past, key=lambda e: (e["at"], e["iid"]))[-length:]

    def steps(self, row):
        liked = self.history(row, where=lambda e: (e["rating"] or 0) >= 4, length=3)
        seen = self.history(row, where=lambda e: True, length=2, age=6)
        return {
            "liked": [
                (
                    e["at"],
                    e["iid"],
                    self.id("iid", e["iid"]),
                    self.tags(e["iid"]),
                    self.number("dwell", e["dwell"]),
                )
                for e in liked
            ],
            "seen": [(e["at"], e["iid"], self.id("iid", e["iid"])) for e in seen],
        }


def rounded(value):
    """A number to compare; NaN as None."""
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4) + 0.0
    if isinstance(value, list | tuple):
        return tuple(rounded(each) for each in value)
    return value


def flat(requests):
    """One tuple a candidate, with all that its request holds."""
    for request in requests:
        own, histories = request["request"], request["histories"]
        steps = [
            tuple(
                zip(*(histories[name][c] for c in ("raw_time", "raw_item", *columns)), strict=True)
            )
            for name, columns in (("liked", ("iid", "tags", "dwell")), ("seen", ("iid",)))
        ]
        for each in request["candidates"]:
            yield rounded(
                (
                    *(request["user"], request["time"], own["uid"], own["country"]),
                    *(own["device"], own["hour"], steps[0], steps[1]),
                    *(each["item"], each["iid"], each["tags"], each["price"], each["labels"]),
                )
            )


def expected(log, split):
    reference = Reference(log)
    for row in log:
        if split_of(row) != split or not is_example(row):
            continue
        steps, item = reference.steps(row), row["iid"]
        yield rounded(
            (
                *(row["uid"], row["at"], reference.id("uid", row["uid"])),
                reference.id("country", PLACES.get(row["uid"])),
                reference.id("device", row["device"]),
                *(reference.number("hour", row["hour"]), steps["liked"], steps["seen"]),
                *(item, reference.id("iid", item), reference.tags(item)),
                *(reference.number("price", PRICES.get(item)), labels_of(row)),
            )
        )


@pytest.fixture(scope="module", autouse=True)
def _small_pieces():
    """Pieces of three rows, so that requests cross from one piece into the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "_ROWS_A_PIECE", 3)
        yield


def prepared(workshop, log):
    return workshop.prepare(RECIPE, log=log, users=USERS, items=ITEMS)


@PROPERTY
@given(log=events())
def test_every_row_comes_back_once_with_the_inputs_that_plain_python_gives(new_workshop, read, log):
    log = log + ANCHORS
    dataset = prepared(new_workshop(), log)
    for split in SPLITS:
        requests = read(dataset, split)
        assert Counter(flat(requests)) == Counter(expected(log, split))
        # rows of one user, time and context are one request
        keys = [(r["user"], r["time"], *map(rounded, r["request"].values())) for r in requests]
        assert len(keys) == len(set(keys))


@PROPERTY
@given(log=events(), data=st.data())
def test_nothing_at_or_after_a_request_changes_its_inputs(new_workshop, read, log, data):
    log = log + ANCHORS
    target = data.draw(st.sampled_from([r for r in log if split_of(r) != "train"]))
    target = {**target, "rating": target["rating"] or 5}
    now = target["at"]
    past = [row for row in log if row["at"] < now]
    keep = [e for e in ANCHORS if e["at"] >= now and e is not target]
    later = data.draw(events(first=now))
    before = prepared(new_workshop(), [*past, *(r for r in log if r["at"] >= now), target])
    after = prepared(new_workshop(), [*past, *later, *keep, target])

    def inputs(dataset):
        found = []
        for split in SPLITS:
            for request in read(dataset, split, encoded=True):
                for each in request["candidates"]:
                    if request["time"] < now:
                        found.append((request, each))
                    elif (request["user"], request["time"]) == (target["uid"], now):
                        about = {k: v for k, v in each.items() if k != "labels"}
                        unlabelled = {k: v for k, v in request.items() if k != "candidates"}
                        if about["item"] == target["iid"]:
                            found.append((unlabelled, about))
        return {repr(each) for each in found}

    one, other = inputs(before), inputs(after)
    mine = {text for text in one & other if f"'time': {now}" in text}
    assert mine, "the target's request has the same inputs in both"
    assert {t for t in one if f"'time': {now}" not in t} == {
        t for t in other if f"'time': {now}" not in t
    }


@PROPERTY
@given(log=events(), later=events(first=VALID_FROM))
def test_what_is_fitted_does_not_depend_on_later_rows(new_workshop, log, later):
    train = [row for row in log + ANCHORS if split_of(row) == "train"]
    later = later + ANCHORS[2:]
    one = prepared(new_workshop(), log + ANCHORS)
    other = prepared(new_workshop(), train + later)
    names = {file.name for file in (one.folder / "encodings").iterdir()}
    assert len(names) == 6  # five spaces and numbers.json
    for name in names:
        contents = [(d.folder / "encodings" / name).read_bytes() for d in (one, other)]
        assert contents[0] == contents[1]
