"""Small random logs, and recipes of every shape that the leak checker knows."""

import datetime as dt
import random

from finerank.data.append import append
from finerank.settings import SPLITS

VALID_FROM, TEST_FROM = 40, 50
USERS = [{"uid": u, "country": "FR" if u % 3 else None, "age": u * 1.5} for u in range(1, 9)]
ITEMS = [
    {"iid": item, "tags": tags, "price": price, "kind": kind}
    for item, tags, price, kind in [
        *(("a", "red, big", 1.5, "x"), ("b", "red,,blue", None, "y"), ("c", None, -2.0, "x")),
        *(("d", " blue ", float("inf"), "y"), ("e", "", 4.0, "x"), ("f", "new", 9.0, "y")),
        ("z", "never", 0.0, "x"),
    ]
]


def event(draw, at=None):
    """A row; ties in time, missing values and rows without a label are common."""
    at = draw.randrange(60) if at is None else at
    late = at >= TEST_FROM
    return {
        "uid": draw.randint(1, 20),
        "iid": draw.choice("abcdefg" if late else "abcde"),
        "at": at,
        "rating": draw.choice([1, 4, 5, None]),
        "done": draw.choice([True, False, None]),
        "device": draw.choice(["phone", "desk", None, *(["watch"] if late else [])]),
        "hour": draw.choice([0.0, 7.5, None, float(at)]),
        "dwell": draw.choice([None, at / 3]),
        "words": draw.choice([None, [], ["p", None, " q "], ["p"], ["r"]]),
        "vector": draw.choice([None, [1.0, 2.0], [0.5, -1.0]]),
        "kind": draw.choice(["view", "view", "view", "click", "order"]),
        "past": [None, ["a"], ["b", "c", "a"], ["e", "h"] if late else []][at % 4],
    }


def events(seed, rows=160):
    draw = random.Random(seed)
    return [event(draw) for _ in range(rows)]


FEATURES = {
    "uid": {"side": "user", "type": "id"},
    "country": {"side": "user", "type": "id", "min_count": 2},
    "age": {"side": "user", "type": "number"},
    "iid": {"side": "item", "type": "id"},
    "tags": {"side": "item", "type": "ids", "separator": ","},
    "price": {"side": "item", "type": "number"},
    "device": {"side": "context", "type": "id"},
    "hour": {"side": "context", "type": "number"},
    "dwell": {"side": "history", "type": "number"},
}
LOG = {"user": "uid", "item": "iid", "time": "at"}
IN_LOG = {
    "iid": {"side": "item", "type": "id"},
    "words": {"side": "context", "type": "ids", "min_count": 3, "max_size": 2},
    "vector": {"side": "context", "type": "vector"},
    "done": {"side": "history", "type": "id"},
    "hour": {"side": "context", "type": "number"},
}
BY_TIME = {"by": "time", "valid_from": VALID_FROM, "test_from": TEST_FROM}
SEEN = {"seen": {"features": ["iid"], "max_length": 2}}
TABLES = {"users": {"key": "uid"}, "items": {"key": "iid"}}
WITH_ITEMS = {
    "items": {"key": "iid"},
    "features": {"iid": {"side": "item", "type": "id"}, "kind": {"side": "item", "type": "id"}},
}
BY_EVENT = {
    "log": {**LOG, "event": "kind", "examples": "kind = 'view'"},
    "features": {"iid": {"side": "item", "type": "id"}},
    "histories": {"clicked": {"features": ["iid"], "where": "kind <> 'view'", "max_length": 2}},
    "tasks": {"click": {"event": "click", "within": 9}, "order": {"event": "order", "within": 4}},
}


def moments(log):
    start = dt.datetime(2024, 1, 1)  # noqa: DTZ001
    return [{**row, "at": start + dt.timedelta(days=row["at"])} for row in log]


def dates(log):
    return [{**row, "at": row["at"].date()} for row in moments(log)]


SHAPES = {
    "time": {
        "log": LOG,
        **TABLES,
        "features": FEATURES,
        "split": BY_TIME,
        "histories": {
            "liked": {
                "features": ["iid", "tags", "dwell"],
                "where": "rating >= 4",
                "max_length": 3,
            },
            **SEEN,
        },
        "tasks": {"like": "rating >= 4", "done": "done"},
    },
    "shares": {
        "log": {**LOG, "derive": {"late": "at > 20"}},
        "tasks": {"like": "rating >= 4"},
        "features": {**IN_LOG, "late": {"side": "context", "type": "number"}},
        "histories": {
            "recent": {"features": ["iid", "done"], "max_length": 4, "max_age": 7},
        },
        "split": {"by": "time", "valid": 0.2, "test": 0.2},
    },
    "hashed": {
        "log": LOG,
        "histories": SEEN,
        "split": BY_TIME,
        "tasks": {"like": "rating >= 4"},
        "features": {
            **{name: {**IN_LOG[name], "buckets": 3} for name in ("iid", "done")},
            "tags": {"side": "context", "type": "ids", "column": "words", "buckets": 2},
        },
    },
    "moments": {
        "log": LOG,
        "features": FEATURES,
        "tasks": {"like": "rating >= 4"},
        **TABLES,
        "histories": {"seen": {"features": ["price"], "max_length": 4, "max_age": "12d"}},
        "split": {"by": "time", "valid_from": "2024-02-10", "test_from": "2024-02-20"},
    },
    "last": {
        "log": LOG,
        "features": IN_LOG,
        "histories": SEEN,
        "tasks": {"done": "done"},
        "split": {"by": "last", "valid": 1, "test": 2},
    },
    "random": {
        "log": LOG,
        "features": FEATURES,
        "histories": SEEN,
        **TABLES,
        "tasks": {"like": "rating >= 4"},
        "split": {"by": "random", "test": 0.3},
    },
    "without time": {
        "log": {"user": "uid", "item": "iid"},
        "features": IN_LOG,
        "tasks": {"like": "rating >= 4"},
        "split": {"by": "random", "test": 0.3},
    },
    "without keys": {
        "log": {},
        "features": {"device": FEATURES["device"], "hour": FEATURES["hour"]},
        "tasks": {"like": "rating >= 4"},
        "split": {"by": "random", "test": 0.3},
    },
    "lists": {
        "log": LOG,
        **WITH_ITEMS,
        "histories": {"before": {"lists": {"iid": "past"}, "features": ["iid", "kind"]}},
        "split": BY_TIME,
        "tasks": {"like": "rating >= 4"},
    },
    "files": {
        "log": {"user": "uid", "item": "iid"},
        "features": IN_LOG,
        "split": {"by": "files"},
        "tasks": {"like": "rating >= 4"},
    },
    "negatives": {
        "log": LOG,
        **WITH_ITEMS,
        "histories": SEEN,
        "split": BY_TIME,
        "tasks": {"like": "rating >= 4", "done": "done"},
        "negatives": {"per_positive": 1, "evaluation": 2},
    },
    "negatives before": {
        "log": LOG,
        "features": {"iid": IN_LOG["iid"]},
        "histories": SEEN,
        "split": BY_TIME,
        "tasks": {"like": "rating >= 4"},
        "negatives": {"per_positive": 2, "exclude": "before", "by": "uniform"},
    },
    "negatives fresh": {
        "log": LOG,
        **WITH_ITEMS,
        "histories": SEEN,
        "split": BY_TIME,
        "tasks": {"like": "rating >= 4"},
        "negatives": {"per_positive": 2, "fresh": True, "exclude": "before"},
    },
    "negatives random": {
        "log": {"user": "uid", "item": "iid"},
        **WITH_ITEMS,
        "tasks": {"done": "done"},
        "split": {"by": "random", "test": 0.3},
        "negatives": {"per_positive": 1, "within": "kind"},
    },
    "thinned": {
        "log": LOG,
        "features": IN_LOG,
        "histories": SEEN,
        "split": BY_TIME,
        "tasks": {"like": "rating >= 4", "done": "done"},
        "negatives": {"keep": 0.3},
    },
    "events": {**BY_EVENT, "split": BY_TIME},
    "events last": {**BY_EVENT, "split": {"by": "last"}},
    "events dates": {
        **BY_EVENT,
        "split": {"by": "time", "valid": 0.3, "test": 0.3},
        "tasks": {"click": {"event": "click", "within": "5d"}, "like": "rating >= 4"},
        "negatives": {"per_positive": 1, "keep": 0.5},
    },
}


def in_files(workshop, log):
    """The rows of a log in three files, and the path of each by its split."""
    parts = dict(zip(SPLITS, (log[:90], log[90:120], log[120:]), strict=True))
    return {name: workshop.write(name, rows) for name, rows in parts.items()}


def prepare(workshop, shape, seed=0):
    """The folder of a data set of a shape, from a random log."""
    settings, log = SHAPES[shape], events(seed)
    tables = {}
    if shape == "files":
        settings = {**settings, "split": {**settings["split"], **in_files(workshop, log)}}
    else:
        log = {"moments": moments, "events dates": dates}.get(shape, list)(log)
        tables["log"] = log
    tables |= {"users": USERS} if "users" in settings else {}
    tables |= {"items": ITEMS} if "items" in settings else {}
    return workshop.prepare(settings, **tables).folder


LATER = [{**each, "price": 7.0, "kind": "w"} if each["iid"] == "b" else each for each in ITEMS[1:]]
LATER += [{"iid": "h", "tags": "late", "price": 3.0, "kind": "w"}]  # a is listed no more
GROWING = (
    *("time", "shares", "hashed", "moments", "last", "random", "lists", "negatives"),
    *("negatives before", "negatives fresh", "thinned", "files"),
)


def day(number, seed=0):
    """The events of a day, with items and devices that no earlier day trains on.

    Its last hours have a device that only the next day trains on.
    """
    draw = random.Random(f"{seed} {number}")
    rows = []
    for row in events(draw.random()):
        new = {"at": row["at"] + 100 * number}
        new |= {"device": f"device {number}"} if draw.random() < 0.2 and number else {}
        if draw.random() < 0.3 and row["at"] >= TEST_FROM:
            new["device"] = f"device {number + 1}"
        new |= {"iid": "h"} if draw.random() < 0.2 and number else {}
        rows.append({**row, **new})
    return rows


def grow(workshop, shape):
    """The folders of a data set of a shape, and of those with two days more."""
    settings = SHAPES[shape]
    kind = {"moments": moments}.get(shape, list)
    tables = {"users": USERS} if "users" in settings else {}
    tables |= {"items": ITEMS} if "items" in settings else {}
    if shape == "files":
        paths = in_files(workshop, day(0))
        settings = {**settings, "log": LOG, "split": {**settings["split"], **paths}}
    else:
        tables["log"] = kind(day(0))
    folders = [workshop.prepare(settings, **tables).folder]
    for number in (1, 2):
        log = workshop.write(f"day{number}", kind(day(number)))
        items = workshop.write("later", LATER) if "items" in settings and number == 2 else None
        at = [100 * number + VALID_FROM, 100 * number + TEST_FROM]
        if kind is moments:
            at = [str(row["at"]) for row in moments([{"at": each} for each in at])]
        split = {"valid_from": at[0], "test_from": at[1]}
        split = {"valid": 0.2, "test": 0.2} if shape == "shares" else split
        split = None if shape in ("last", "random") else split
        out = workshop.folder / f"grown{number}"
        folders.append(append(folders[-1], log=log, out=out, items=items, split=split).folder)
    return folders


def failed(report):
    """The checks that failed, with their counterexamples."""
    return {each.name: each.counterexample for each in report.checks if each.status == "failed"}
