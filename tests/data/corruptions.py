"""Ways to corrupt prepared data on purpose: each takes the folder of a data set."""

import json

import check_shapes as shapes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finerank.data.storage import read_batch, write_columns
from finerank.settings import SPLITS


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
    paths = [manifest["recipe"]["log"]["path"]]
    paths += [path for part in manifest.get("appended", []) for path in part["log"]]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


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
