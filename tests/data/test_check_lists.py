"""The checker on ready-made histories that are corrupted on purpose."""

import re
import shutil

import numpy as np
import pyarrow as pa
import pytest

from finerank.checks.checker import check
from finerank.data.storage import read_batch, write_columns

RECIPE = {
    "log": {"user": "uid", "item": "iid", "time": "at"},
    "items": {"key": "iid"},
    "features": {
        "iid": {"side": "item", "type": "id"},
        "cat": {"side": "item", "type": "id"},
        "stars": {"side": "history", "type": "number"},
        "shop": {"side": "history", "type": "id"},
    },
    "histories": {
        "clicked": {
            "features": ["iid", "cat", "stars"],
            "lists": {"iid": "past", "stars": "past_stars"},
            "max_length": 3,
        },
        "viewed": {"lists": {"shop": "shops"}, "newest": "first", "separator": "|"},
    },
    "tasks": {"like": "liked"},
    "split": {"by": "time", "valid_from": 20, "test_from": 30},
}


def log():
    """Items 8 and 9 only stand in lists: 8 in those of training, 9 beyond the newest three."""
    random = np.random.default_rng(0)
    for number in range(60):
        past = random.integers(1, 7, random.integers(0, 6)).tolist()
        past += [8] if number < 30 else []
        past = [9, 1, 2, *past] if len(past) > 2 else past
        shops = random.choice(["a", "b", " c "], random.integers(0, 4)).tolist()
        yield {
            "uid": number % 4,
            "iid": int(random.integers(1, 7)),
            "at": number * 2 // 3,
            "past": past,
            "past_stars": [float(random.integers(1, 6)) for _ in past],
            "shops": "|".join(shops),
            "liked": number % 2,
        }


@pytest.fixture(scope="module")
def prepared(new_workshop):
    items = [{"iid": i, "cat": f"c{i % 3}"} for i in range(1, 9)]
    dataset = new_workshop().prepare(RECIPE, log=list(log()), items=items)
    report = check(dataset.folder)
    assert report.passed, report.checks
    known = read_batch(dataset.folder / "encodings" / "iid.arrow").column("value").to_pylist()
    assert 8 in known
    assert 9 not in known
    return dataset.folder


def rewrite(path, name, change):
    batch = read_batch(path)
    values = change(batch.column(name).to_numpy(zero_copy_only=False).copy())
    place = batch.schema.get_field_index(name)
    unfinished = path.with_suffix(".new")  # the old one may still be mapped
    changed = pa.array(values, batch.schema.field(name).type, from_pandas=False)
    write_columns(unfinished, batch.set_column(place, name, changed))
    unfinished.rename(path)


def column(path, name, change):
    return lambda folder: rewrite(folder / path, name, change)


def vocabulary(space, change):
    def corrupt(folder):
        path = folder / "encodings" / f"{space}.arrow"
        values = change(read_batch(path).column("value").to_pylist())
        write_columns(path.with_suffix(".new"), pa.record_batch({"value": pa.array(values)}))
        path.with_suffix(".new").rename(path)

    return corrupt


CLICKED, VIEWED = ("events/clicked/events.arrow", "events/viewed/events.arrow")
CORRUPTIONS = {
    "the id of a step": (
        column(CLICKED, "feature.iid", lambda x: x % 6 + 1),
        {"history clicked"},
        r"expected step \d \(iid, stars, row of the item\) to be \[\d, .*\] by its lists, found",
    ),
    "a number of a step": (
        column(CLICKED, "feature.stars", lambda x: x + 1),
        {"history clicked"},
        r"expected step 0 \(iid, stars",
    ),
    "the item that a step is looked up by": (
        column(CLICKED, "item", lambda x: x % 6 + 1),
        {"history clicked"},
        r"row of the item\) to be",
    ),
    "the wrong end": (
        column(VIEWED, "feature.shop", lambda x: x[::-1]),
        {"history viewed"},
        r"expected step \d \(shop\) to be",
    ),
    "another's steps": (
        column("test/requests.arrow", "start.clicked", lambda x: x - 1),
        {"windows clicked", "history clicked"},
        r"test, request \d: expected at most 3 steps within 0 to \d+, found",
    ),
    "a step is forgotten": (
        column("valid/requests.arrow", "end.viewed", lambda x: np.maximum(x - 1, 0)),
        {"windows viewed", "history viewed"},
        r"valid, .*: expected \d steps by its lists, found \d|expected step",
    ),
    "an item beyond the newest": (
        vocabulary("iid", lambda v: [*v, 9]),
        {"vocabularies"},
        "iid: expected values that training rows have at least 1 time, found '9'",
    ),
    "an item of lists is missing": (
        vocabulary("iid", lambda v: [each for each in v if each != 8]),
        {"vocabularies", "history clicked", "features"},
        r"iid: expected '8', which training rows have \d+ times, found it missing",
    ),
    "a value of lists alone": (
        vocabulary("shop", lambda v: v[:-1]),
        {"vocabularies", "history viewed"},
        r"shop: expected '[abc]', which training rows have \d+ times, found it missing",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_is_corrupted_fails(prepared, tmp_path, name):
    corrupt, names, message = CORRUPTIONS[name]
    folder = shutil.copytree(prepared, tmp_path / "prepared")
    corrupt(folder)
    report = check(folder, sample=10_000)
    found = {each.name: each.counterexample for each in report.checks if each.status == "failed"}
    assert set(found) == names, found
    assert any(re.search(message, text) for text in found.values()), found


def test_it_says_what_nobody_can_prove(prepared):
    said = {each.name: each for each in check(prepared, sample=3).checks}
    for name in ("clicked", "viewed"):
        assert said[f"time order {name}"].status == "not checked"
        assert "its lists are ready-made" in said[f"time order {name}"].what
