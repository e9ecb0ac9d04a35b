from collections import Counter
from hashlib import md5

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from finerank.data.prepare import prepare
from finerank.data.splits import drawn
from finerank.errors import FinerankError
from finerank.recipe import Recipe
from finerank.settings import SPLITS

PROPERTY = settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
SETTINGS = {
    "log": {"user": "u", "item": "i", "time": "t"},
    "features": {"i": {"side": "item", "type": "id"}},
    "tasks": {"click": "click"},
}
ROWS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 12)),
    min_size=30,
    max_size=60,
    unique=True,
)


def prepared(workshop, rows, split, **options):
    table = [{"u": u, "i": i, "t": t, "click": 1} for u, i, t in rows]
    return workshop.prepare({**SETTINGS, "split": split}, log=table, **options)


def rows_of(read, dataset):
    return {
        split: [
            (request["user"], each["item"], request["time"])
            for request in read(dataset, split)
            for each in request["candidates"]
        ]
        for split in SPLITS
    }


@PROPERTY
@given(rows=ROWS)
def test_by_time_rows_of_the_boundary_go_together(new_workshop, read, rows):
    rows = [*rows, *((1, 1, t) for t in range(13))]
    times = sorted(t for _, _, t in rows)
    valid_from = times[len(rows) - round(0.4 * len(rows))]
    test_from = times[len(rows) - round(0.2 * len(rows))]
    expected = {
        "train": [row for row in rows if row[2] < valid_from],
        "valid": [row for row in rows if valid_from <= row[2] < test_from],
        "test": [row for row in rows if row[2] >= test_from],
    }
    assume(all(expected.values()))
    found = rows_of(read, prepared(new_workshop(), rows, {"by": "time", "valid": 0.2, "test": 0.2}))
    assert {k: Counter(v) for k, v in found.items()} == {k: Counter(v) for k, v in expected.items()}


@PROPERTY
@given(rows=ROWS)
def test_last_keeps_each_users_newest_moments(new_workshop, read, rows):
    rows = [*rows, *((1, 1, t) for t in range(13))]
    found = rows_of(read, prepared(new_workshop(), rows, {"by": "last", "valid": 2, "test": 1}))
    expected = {split: Counter() for split in SPLITS}
    for user, item, time in rows:
        later = {t for u, _, t in rows if u == user and t > time}
        split = "test" if len(later) < 1 else "valid" if len(later) < 3 else "train"
        expected[split][user, item, time] += 1
    assert {k: Counter(v) for k, v in found.items()} == expected


def test_random_is_seeded_and_keeps_equal_rows_together(workshop, read):
    rows = [(u, i, t) for u in range(1, 5) for i in range(10) for t in range(15)] * 2
    split = {"by": "random", "valid": 0.1, "test": 0.3}
    one, again, other, half = (
        rows_of(read, prepared(workshop, some, {**split, "seed": seed}, out=out))
        for seed, out, some in (
            *((0, "a", rows), (0, "b", rows)),
            *((1, "c", rows), (0, "d", rows[: len(rows) // 2])),
        )
    )
    assert one == again != other
    sizes = {split: len(found) / len(rows) for split, found in one.items()}
    assert sizes == pytest.approx({"train": 0.6, "valid": 0.1, "test": 0.3}, abs=0.06)
    sets = [set(found) for found in one.values()]
    assert sum(map(len, sets)) == len(rows) // 2
    assert [set(found) for found in half.values()] == sets  # other rows have no influence


@pytest.mark.parametrize("log", [{}, {"item": "i"}, {"user": "u", "item": "i"}])
def test_without_time_or_user_each_row_is_a_request(workshop, read, log):
    rows = {"u": [1] * 60, "i": [5] * 60, "x": [n // 2 for n in range(60)], "click": [1, 0] * 30}
    recipe = {
        "log": log,
        "features": {"x": {"side": "context", "type": "number"}},
        "tasks": SETTINGS["tasks"],
        "split": {"by": "random", "valid": 0.2, "test": 0.2},
    }
    dataset = workshop.prepare(recipe, log=pa.table(rows))
    for split in SPLITS:
        assert all(len(r["candidates"]) == 1 for r in read(dataset, split))
        assert dataset.split(split).num_requests == dataset.manifest["report"]["rows"][split]
    labels = [label for split in SPLITS for label in dataset.split(split).labels[0].tolist()]
    assert len(labels) == 60
    assert sum(labels) == 30


def test_files_whose_rows_are_not_all_examples(workshop, read):
    """The others are events, of no split."""
    settings = {
        **SETTINGS,
        "log": {**SETTINGS["log"], "examples": "shown"},
        "histories": {"seen": {"features": ["i"]}},
        "split": {"by": "files"},
    }
    for time, split in enumerate(SPLITS):
        rows = [
            {"u": 1, "i": 10 * time + n, "t": time, "click": 1, "shown": n == 0} for n in (0, 1)
        ]
        settings["split"][split] = workshop.write(split, rows)
    dataset = workshop.prepare(settings)
    assert rows_of(read, dataset) == {
        split: [(1, 10 * time, time)] for time, split in enumerate(SPLITS)
    }
    assert read(dataset, "test")[0]["histories"]["seen"]["raw_item"] == [0, 1, 10, 11]


def test_a_log_whose_features_are_all_in_the_table_of_items(workshop, read):
    recipe = {
        "log": {"item": "i"},
        "items": {"key": "i"},
        "features": {"i": {"side": "item", "type": "id"}},
        "tasks": SETTINGS["tasks"],
        "split": {"by": "random", "valid": 0.3, "test": 0.3},
    }
    log = pa.table({"i": list(range(40)), "click": [1] * 40})
    dataset = workshop.prepare(recipe, log=log, items=pa.table({"i": [1]}))
    assert sum(len(read(dataset, split)) for split in SPLITS) == 40


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"by": "time", "valid_from": 5, "test_from": 99}, "found none for test of 13 rows"),
        ({"by": "time", "valid_from": 5, "test_from": 5}, "found none for valid of 13 rows"),
        ({"by": "time", "valid_from": 0, "test_from": 5}, "found none for train of 13 rows"),
        ({"by": "time", "valid": 0.01, "test": 0.2}, "found none for valid"),
        ({"by": "last", "valid": 1, "test": 20}, "found none for train, valid"),
        ({"by": "time", "valid_from": "soon", "test_from": 5}, r"times as in log\.time .*'soon'"),
    ],
)
def test_an_empty_split_is_an_error(workshop, split, message):
    with pytest.raises(FinerankError, match=message):
        prepared(workshop, [(1, 1, t) for t in range(13)], split)


def test_shares_of_a_log_of_many_row_groups(tmp_path):
    """The engine reads such a log in parallel, so that no order comes by itself."""
    times = np.random.default_rng(0).permutation(400_000)
    log = {"user": times % 7, "item": times % 5, "time": times, "click": times % 2}
    pq.write_table(pa.table(log), tmp_path / "log.parquet", row_group_size=20_000)
    recipe = Recipe.parse(
        {
            "log": {"path": "log.parquet", "user": "user", "item": "item", "time": "time"},
            "features": {"item": {"side": "item", "type": "id"}},
            "tasks": {"click": "click = 1"},
            "split": {"by": "time", "valid": 0.1, "test": 0.2},
        }
    ).located(tmp_path)
    for attempt in range(3):
        report = prepare(recipe, tmp_path / str(attempt)).manifest["report"]
        assert report["rows"] == {"train": 280_000, "valid": 40_000, "test": 80_000}


def test_a_draw_follows_from_the_content_of_a_row_not_from_its_use():
    users = list(range(40))
    rows = ibis.memtable(pa.table({"user": users, "no_example": [u % 2 == 0 for u in users]}))
    found = rows.select("user", drawn=drawn(rows, 0.5, "3")).to_pyarrow().to_pylist()
    expected = {user: md5(f"3|{user}|".encode()).hexdigest() < "8" for user in users}
    assert {row["user"]: row["drawn"] for row in found} == expected
