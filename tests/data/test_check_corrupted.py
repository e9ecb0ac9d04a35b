"""The leak checker on prepared data that is corrupted on purpose: every claim can fail."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finerank.checks.checker import check
from finerank.data.storage import read_batch, write_columns
from finerank.settings import SPLITS


def _load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shapes = _load("check_shapes")


@pytest.fixture(scope="module")
def prepared(new_workshop):
    """A data set of each shape, prepared once."""
    made = {}

    def prepared(shape):
        if shape not in made:
            made[shape] = shapes.prepare(new_workshop(), shape)
        return made[shape]

    return prepared


def rewrite(path, change):
    """Write an Arrow file anew, with its columns as NumPy arrays changed."""
    batch = read_batch(path)
    columns = {name: batch.column(name).to_numpy(zero_copy_only=False).copy() for name in batch.schema.names}  # fmt: skip  # noqa: E501
    change(columns)
    arrays = [pa.array(columns[f.name], f.type, from_pandas=False) for f in batch.schema]
    unfinished = path.with_suffix(".new")  # the old one may still be mapped
    write_columns(unfinished, pa.RecordBatch.from_arrays(arrays, schema=batch.schema))
    unfinished.rename(path)


def offsets(folder, history):
    return np.array(read_batch(folder / "events" / history / "users.arrow").column("offset"))


def see_the_present(folder):
    """The windows end one event later."""
    of = offsets(folder, "seen")
    for split in SPLITS:

        def change(columns):
            ends = columns["end.seen"]
            columns["end.seen"] = np.minimum(ends + 1, of[columns["user"] + 1])

        rewrite(folder / split / "requests.arrow", change)


def keep_the_oldest(folder):
    of = offsets(folder, "seen")

    def change(columns):
        lengths = columns["end.seen"] - columns["start.seen"]
        columns["start.seen"] = of[columns["user"]]
        columns["end.seen"] = columns["start.seen"] + lengths

    rewrite(folder / "test" / "requests.arrow", change)


def forget_the_oldest(folder):
    def change(columns):
        columns["start.seen"] = np.minimum(columns["start.seen"] + 1, columns["end.seen"])

    rewrite(folder / "test" / "requests.arrow", change)


def ignore_the_age(folder):
    of = offsets(folder, "recent")

    def change(columns):
        columns["start.recent"] = np.maximum(of[columns["user"]], columns["end.recent"] - 4)

    rewrite(folder / "test" / "requests.arrow", change)


def look_at_another_user(folder):
    of = offsets(folder, "seen")

    def change(columns):
        first = np.flatnonzero(columns["user"] == columns["user"].max())[0]
        columns["start.seen"][first], columns["end.seen"][first] = 0, 1
        assert of[columns["user"][first]] > 0

    rewrite(folder / "train" / "requests.arrow", change)


def another_step_item(history):
    def corrupt(folder):
        def change(columns):
            columns["item"] = columns["item"] % columns["item"].max() + 1

        rewrite(folder / "events" / history / "events.arrow", change)

    return corrupt


def another_step_time(folder):
    """One event of a user stands behind a later one."""

    def change(columns):
        columns["time"][1] = -1

    rewrite(folder / "events" / "seen" / "events.arrow", change)


def another_step_feature(folder):
    def change(columns):
        columns["feature.dwell"] += 1

    rewrite(folder / "events" / "liked" / "events.arrow", change)


def copy_from_test_to_train(folder):
    """The last request of the test set becomes one of the training set."""
    parts = {}
    for kind in ("requests", "candidates"):
        train, test = (read_batch(folder / s / f"{kind}.arrow") for s in ("train", "test"))
        parts[kind] = [train, test]
    first = parts["requests"][1].column("first_candidate")[-1].as_py()
    more = {
        "requests": parts["requests"][1].slice(parts["requests"][1].num_rows - 1),
        "candidates": parts["candidates"][1].slice(first),
    }
    place = more["requests"].schema.get_field_index("first_candidate")
    moved = pa.array([parts["candidates"][0].num_rows], pa.int64())
    more["requests"] = more["requests"].set_column(place, "first_candidate", moved)
    for kind, (train, _) in parts.items():
        path = folder / "train" / f"{kind}.arrow"
        whole = pa.Table.from_batches([train, more[kind].cast(train.schema)]).combine_chunks()
        write_columns(path.with_suffix(".new"), whole.to_batches()[0])
        path.with_suffix(".new").rename(path)


def vocabulary(space, change):
    def corrupt(folder):
        path = folder / "encodings" / f"{space}.arrow"
        values = change(read_batch(path).column("value").to_pylist())
        write_columns(path.with_suffix(".new"), pa.record_batch({"value": pa.array(values)}))
        path.with_suffix(".new").rename(path)

    return corrupt


def statistic(name, key):
    def corrupt(folder):
        path = folder / "encodings" / "numbers.json"
        numbers = json.loads(path.read_text())
        numbers[name][key] *= 1.001
        path.write_text(json.dumps(numbers))

    return corrupt


def mean_of_all(folder):
    """As if no row had been left out of training."""
    train = [r for r in raw_log(folder) if r["at"] < shapes.VALID_FROM]
    labelled = [r for r in train if (r["rating"], r["done"]) != (None, None)]
    path = folder / "encodings" / "numbers.json"
    hours = [r["hour"] for r in labelled if r["hour"] is not None]
    path.write_text(json.dumps({"hour": {"mean": np.mean(hours), "std": np.std(hours)}}))


def label(task, split="test", *, old=(0, 1), new=None):
    """Change the first label that is one of the old ones; by default, flip it."""

    def corrupt(folder):
        def change(columns):
            labels = columns[f"label.{task}"]
            place = np.flatnonzero(np.isnan(labels) if old is None else np.isin(labels, old))[0]
            labels[place] = 1 - labels[place] if new is None else new

        rewrite(folder / split / "candidates.arrow", change)

    return corrupt


def column(path, name, change):
    def corrupt(folder):
        def changed(columns):
            columns[name] = change(columns[name])

        rewrite(folder / path, changed)

    return corrupt


def raw_log(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    return pq.read_table(manifest["recipe"]["log"]["path"]).to_pylist()


def keys_of(folder, home):
    return [None, *read_batch(folder / home / "keys.arrow").column("key").to_pylist()]


def negatives(folder, split):
    """The places of sampled negatives, with their user and time."""
    requests = read_batch(folder / split / "requests.arrow").to_pylist()
    candidates = read_batch(folder / split / "candidates.arrow").to_pylist()
    users, items = keys_of(folder, "users"), keys_of(folder, "items")
    rows = {(r["uid"], r["iid"], r["at"]) for r in raw_log(folder)}
    ends = [r["first_candidate"] for r in requests[1:]] + [len(candidates)]
    return [
        (place, users[request["user"]], request["time"])
        for request, end in zip(requests, ends, strict=True)
        for place in range(request["first_candidate"], end)
        if (users[request["user"]], items[candidates[place]["item"]], request["time"]) not in rows
    ]


def negative_that_was_met(*, later=False):
    """A negative becomes an item that its user met before, or one that is only met later."""

    def corrupt(folder):
        log, items = raw_log(folder), keys_of(folder, "items")
        pool = {r["iid"] for r in log if r["at"] < shapes.VALID_FROM and r["rating"] is not None}
        for place, user, time in negatives(folder, "train"):  # noqa: B007  (the first that can)
            mine = [r for r in log if r["uid"] == user and r["iid"] in pool]
            before = {r["iid"] for r in mine if r["at"] < time}
            met = {r["iid"] for r in mine if r["at"] > time} - before if later else before
            if left := met - {r["iid"] for r in mine if r["at"] == time}:
                item = min(left)
                break

        def change(columns):
            columns["item"][place] = items.index(item)
            if "feature.iid" in columns:
                known = read_batch(folder / "encodings" / "iid.arrow").column("value").to_pylist()
                columns["feature.iid"][place] = known.index(item) + 1

        rewrite(folder / "train" / "candidates.arrow", change)

    return corrupt


def negative_with(name, change):
    """The first negative of the test set gets another value in a column."""

    def corrupt(folder):
        place, _, _ = negatives(folder, "test")[0]

        def changed(columns):
            columns[name][place] = change(columns[name][place])

        rewrite(folder / "test" / "candidates.arrow", changed)

    return corrupt


def sampler(name, change):
    """A column of what training draws negatives from is changed."""

    def corrupt(folder):
        path = folder / "negatives" / name

        def changed(columns):
            (key,) = {"weight", "first"} & columns.keys()
            columns[key] = change(columns[key])

        rewrite(path, changed)

    return corrupt


def forget_a_pair(folder):
    """A user's item is no longer among those met."""
    path = folder / "negatives" / "met.arrow"
    shorter = pa.RecordBatch.from_pylist(read_batch(path).to_pylist()[1:])
    write_columns(path.with_suffix(".new"), shorter)
    path.with_suffix(".new").rename(path)


def flip(lists):
    return [np.array(3 - np.asarray(each), dtype=np.int32) for each in lists]


def shift(values):
    return np.roll(values, 1)


CORRUPTIONS = {
    "windows see the present": (
        *("time", see_the_present, {"windows seen", "history seen"}),
        r"train, request \d+: user '\d+' at \d+: expected steps before it, found one at \d+",
    ),
    "the oldest steps are kept": (
        *("time", keep_the_oldest, {"history seen"}),
        r"expected 2 steps from \d+ to \d+, found 2 steps from \d+ to \d+",
    ),
    "a step is forgotten": (
        *("last", forget_the_oldest, {"history seen"}),
        r"expected 2 steps from .*, found 1 step from",
    ),
    "steps are too old": (
        *("shares", ignore_the_age, {"history recent"}),
        r"expected (no|\d) steps?.*, found \d step",
    ),
    "another user's steps": (
        *("random", look_at_another_user, {"windows seen", "history seen"}),
        r"expected a window within that user's events \d+ to \d+, found 0 to 1",
    ),
    "the item of a step": (
        *("events last", another_step_item("clicked"), {"history clicked"}),
        r"expected at \d+ the step item '\w' iid \d( or .*)?, found item '\w' iid",
    ),
    "the order of events": (
        *("time", another_step_time, {"windows seen", "history seen"}),
        "expected events in order of time, found one at -1 behind one at",
    ),
    "a feature of a step": (
        *("time", another_step_feature, {"history liked"}),
        r"item '\w' dwell",
    ),
    "a test row in train, by time": (
        *("time", copy_from_test_to_train, {"rows", "split"}),
        r"train, request \d+: user '\d+' at \d+: expected a time before the first of valid, 4\d",
    ),
    "a test row in train, by last": (
        *("last", copy_from_test_to_train, {"rows", "split"}),
        r"expected a time before that user's first of \w+, \d+, found it at or after that",
    ),
    "a test row in train, by files": (
        *("files", copy_from_test_to_train, {"rows"}),
        r"expected no more than \d+ such examples in train .*, found \d+ \(whose rows .* in test",
    ),
    "a test row in train, drawn": (
        *("random", copy_from_test_to_train, {"rows"}),
        r"expected no more than \d such examples in train",
    ),
    "a test row in train, with negatives": (
        *("negatives", copy_from_test_to_train, {"rows", "split", "negatives"}),
        "whose rows are ",
    ),
    "an example that the log doesn't have": (
        *(
            "shares",
            column("test/requests.arrow", "time", lambda t: t + 1000),
            {"rows", "history recent"},
        ),
        r"expected no more than 0 such examples in test .* \(which no row of the log has\)",
    ),
    "an item met is forgotten": (
        *("negatives fresh", forget_a_pair, {"drawn in training"}),
        "expected this item among those that are never drawn for this user",
    ),
    "an item met is met later": (
        *("negatives fresh", sampler("met.arrow", lambda t: t + 5), {"drawn in training"}),
        "expected this item among those that are never drawn for this user",
    ),
    "all items are drawn": (
        *("negatives fresh", sampler("items.arrow", lambda w: w + 1), {"drawn in training"}),
        "expected an item of the training rows to draw from",
    ),
    "a value that only test rows have": (
        *("time", vocabulary("device", lambda v: [*v, "watch"]), {"vocabularies", "features"}),
        "device: expected values that training rows have at least 1 time, found 'watch', "
        "which they have 0 times",
    ),
    "a tag that only other items have": (
        *("time", vocabulary("tags", lambda v: [*v, "never"]), {"vocabularies"}),
        "tags: .*found 'never', which they have 0 times",
    ),
    "a value of no row, drawn": (
        *("random", vocabulary("device", lambda v: [*v, "hat"]), {"vocabularies"}),
        "device: .*found 'hat', which they have 0 times",
    ),
    "a value is missing": (
        *("last", vocabulary("done", lambda v: v[:-1]), {"vocabularies"}),
        r"done: expected '\d', which training rows have \d+ times, found it missing",
    ),
    "a value too many": (
        *("last", vocabulary("words", lambda v: [*v, "r"]), {"vocabularies", "features"}),
        "words: expected 2 values, found 3",
    ),
    "a value that is less frequent": (
        *(
            "last",
            vocabulary("words", lambda v: [*{"p", "q", "r"} - {*v}, v[1]]),
            {"vocabularies", "features"},
        ),
        r"words: expected '\w', which training rows have \d+ times, found it missing",
    ),
    "an id in another bucket": (
        *("hashed", column("test/requests.arrow", "feature.tags", flip), {"features"}),
        r"expected tags \[[12, ]+\] by the log, found",
    ),
    "a mean": (
        *("time", statistic("age", "mean"), {"numbers", "features"}),
        r"age: expected mean \d+\.\d+ and standard deviation \d.*, found ",
    ),
    "a mean of all rows, not of those kept": (
        "thinned",
        mean_of_all,
        {"numbers", "features"},
        "hour: expected mean",
    ),
    "an item of test rows, where rows are left out": (
        "thinned",
        vocabulary("iid", lambda v: [*v, "g"]),
        {"vocabularies", "history seen", "features"},
        "iid: expected values that training rows have at least 1 time, found 'g'",
    ),
    "a deviation": (
        "last",
        statistic("hour", "std"),
        {"numbers", "features"},
        "hour: expected mean",
    ),
    "a label": ("time", label("like"), {"labels like"}, "expected [01], found [01]"),
    "a label of what is unknown": (
        *("time", label("done", old=None, new=0), {"labels done"}),
        "expected unknown, found 0",
    ),
    "a label, by files": ("files", label("like"), {"labels like"}, "expected [01], found [01]"),
    "what followed": ("events", label("click", "train"), {"labels click"}, "expected [01], found"),
    "what isn't known before the cut": (
        *("events", label("click", "train", old=None, new=1), {"labels click"}),
        "train, .*expected unknown, found 1",
    ),
    "what isn't known before a user's cut": (
        *("events last", label("click", "valid", old=None, new=0), {"labels click"}),
        "valid, .*expected unknown, found 0",
    ),
    "what followed in days": (
        *("events dates", label("click", "train"), {"labels click"}),
        "at 20.*expected [01], found [01]",
    ),
    "a feature of the moment": (
        *("last", column("valid/requests.arrow", "feature.hour", lambda x: x + 1), {"features"}),
        "valid, .*: expected hour .* by the log, found",
    ),
    "a feature of the log's items": (
        *("files", column("test/candidates.arrow", "feature.iid", shift), {"features"}),
        "test, .*: expected iid .* by the log, found",
    ),
    "a feature of an item": (
        *("time", column("items/features.arrow", "price", lambda x: x + 1), {"features"}),
        r"item '\w': expected price .* by the table of items, found",
    ),
    "a feature of a user": (
        *("time", column("users/features.arrow", "country", lambda x: 1 - x), {"features"}),
        r"user '\d+': expected country \d by the table of users, found \d",
    ),
    "a negative that was met": (
        *("negatives", negative_that_was_met(), {"negatives"}),
        r"train, .*: expected a negative that the user never met, found an item met at \d+",
    ),
    "a negative that is met later": (
        *("negatives", negative_that_was_met(later=True), {"negatives"}),
        r"expected a negative that the user never met, found an item met at",
    ),
    "a negative that was met before": (
        *("negatives before", negative_that_was_met(), {"negatives"}),
        r"expected a negative that the user never met up to then, found an item met at",
    ),
    "a negative of no training row": (
        *("negatives", negative_with("item", lambda _: 8), {"negatives"}),
        "test, .*item 'z' .*: expected a negative from the items of the training rows",
    ),
    "a negative with a label of 1": (
        *("negatives before", negative_with("label.like", lambda _: 1.0), {"labels like"}),
        "expected 0 beside its positive, found 1",
    ),
    "the id of a negative": (
        *("negatives before", negative_with("feature.iid", lambda x: x + 1), {"features"}),
        r"expected iid \d of the sampled item, found \d",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_is_corrupted_fails(prepared, tmp_path, name):
    shape, corrupt, names, message = CORRUPTIONS[name]
    folder = shutil.copytree(prepared(shape), tmp_path / "prepared")
    corrupt(folder)
    report = check(folder, sample=10_000)
    found = shapes.failed(report)
    assert set(found) == names
    assert any(re.search(message, text) for text in found.values()), found
    assert not report.passed
