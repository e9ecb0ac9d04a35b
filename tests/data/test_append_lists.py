"""New rows with ready-made histories behind a prepared data set, against preparing all rows."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from finerank.data import list_writer
from finerank.data.append import append
from finerank.data.dataset import Dataset
from finerank.settings import SPLITS

DAY, VALID, TEST = 100, 20, 25
ITEMS = [{"iid": f"i{n}", "kind": n % 3} for n in range(9)]
RECIPE = {
    "log": {"user": "uid", "item": "iid", "time": "at"},
    "items": {"key": "iid"},
    "features": {
        "iid": {"side": "item", "type": "id"},
        "kind": {"side": "item", "type": "id"},
        "age": {"side": "history", "type": "number"},
        "device": {"side": "context", "type": "id"},
        "word": {"side": "history", "type": "id"},
    },
    "histories": {
        "seen": {
            "features": ["iid", "kind", "age"],
            "lists": {"iid": "seen", "age": "ages"},
            "max_length": 3,
        },
        "clicked": {"features": ["iid", "word"], "where": "click = 1", "max_length": 2},
    },
    "tasks": {"click": "click"},
}


def split(day):
    return {"valid_from": DAY * day + VALID, "test_from": DAY * day + TEST}


def day_log(day, count=60):
    """Rows of which some share their lists; the later the day, the more items there are."""
    random, rows = np.random.default_rng(day), []
    for number in range(count):
        seen = [f"i{n}" for n in random.integers(0, 4 + 2 * day, random.integers(0, 5))]
        row = {
            "uid": int(random.integers(1, 5 + day)),
            "iid": f"i{random.integers(0, 4 + 2 * day)}",
            "at": DAY * day + number // 2,
            "click": int(random.integers(2)),
            "device": str(random.choice(["a", "b", f"own {day}"])),
            "word": str(random.choice(["x", "y", f"own {day}"])),
            "seen": seen,
            "ages": [float(x) for x in random.integers(0, 9, len(seen))],
        }
        if number % 4 == 1:  # of the same request as the row before
            row |= {each: rows[-1][each] for each in ("uid", "device", "seen", "ages")}
        rows.append(row)
    return rows


def shown(dataset, read, stages):
    """Every candidate with all that belongs to it, by split; ids that some stage lacked as None."""
    known = [
        {
            name: {*each.encoder.encodings[name].vocabulary.values.to_pylist()}
            for name in ("iid", "device", "word")
        }
        for each in stages
    ]
    age = dataset.encoder.encodings["age"]

    def of(name, value, time):
        return value if value in known[time // DAY][name] else None

    found = {}
    for name in SPLITS:
        found[name] = Counter()
        for r in read(dataset, name):
            at = r["time"]
            steps = r["histories"]["seen"]
            seen = [
                (of("iid", iid, at), kind, math.floor(x * age.std + age.mean + 0.5))
                for iid, kind, x in zip(steps["iid"], steps["kind"], steps["age"], strict=True)
            ]
            steps = r["histories"]["clicked"]
            clicked = [
                (time, iid, of("word", word, time))
                for time, iid, word in zip(
                    steps["raw_time"], steps["raw_item"], steps["word"], strict=True
                )
            ]
            own = (at, r["user"], of("device", r["request"]["device"], at), repr(seen))
            own = (*own, repr(sorted(map(str, clicked))), len(r["candidates"]))
            for c in r["candidates"]:
                found[name][(*own, c["item"], c["iid"], c["kind"], *c["labels"])] += 1
    return found


@pytest.fixture
def stages(workshop, monkeypatch):
    """Three days, prepared and appended one after the other."""
    monkeypatch.setattr(list_writer, "_ROWS_A_PIECE", 7)
    settings = {**RECIPE, "split": {"by": "time", **split(0)}}
    stages = [workshop.prepare(settings, log=day_log(0), items=ITEMS)]
    Path(workshop.folder / "log.parquet").unlink()
    for day in (1, 2):
        log = workshop.write(f"day{day}", day_log(day))
        out = workshop.folder / f"stage{day}"
        done = append(stages[-1].folder, log=log, out=out, split=split(day))
        stages.append(Dataset(done.folder))
    return stages


def test_appending_lists_gives_what_preparing_the_union_gives(stages, new_workshop, read):
    union = new_workshop().prepare(
        {**RECIPE, "split": {"by": "time", **split(2)}},
        log=[*day_log(0), *day_log(1), *day_log(2)],
        items=ITEMS,
    )
    last = stages[-1]
    assert shown(last, read, stages) == shown(union, read, stages)
    report, expected = last.manifest["report"], union.manifest["report"]
    assert report["requests"]["train"] == expected["requests"]["train"]
    for name in ("rows", "label_rate"):
        assert report[name] == expected[name], name
    assert report["events"]["clicked"] == expected["events"]["clicked"]


def test_earlier_steps_stay_and_new_ones_come_behind(stages):
    for before, after in pairwise(stages):
        old, new = before.stores["seen"], after.stores["seen"]
        count = len(old.columns["age"])
        assert len(new.columns["age"]) > count
        assert new.columns["age"][:count].equal(old.columns["age"])
        assert new.columns["iid"][:count].equal(old.columns["iid"])
        assert new.item[:count].equal(old.item)
        assert after.manifest["report"]["events"]["seen"] == len(new.columns["age"])
