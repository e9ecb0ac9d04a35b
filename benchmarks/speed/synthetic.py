"""Synthetic data of every case, from one seed: the raw files, and the same as encoded arrays.

Ids are zipf-like (the chance of id ``i`` goes with ``1 / i``), history lengths lognormal. Raw ids
are integers from 1 on, so that they are encoded ids too, and every library has the same
vocabularies; 0 is left for unknown and for padding.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from cases import Case

SEED = 2018
HELD_OUT = 2000  # rows of validation and of test, each
TRAIN_AT, VALID_AT, TEST_AT = 1000, 1_000_000, 2_000_000  # past events are at 0 to max_length - 1
MEAN_LENGTH, LOG_SIGMA = 9.9, 1.2  # before cutting to whole steps and 100: 9 after


@dataclass(frozen=True)
class Arrays:
    """A case's training set, encoded.

    Attributes:
        columns: of each example ``(rows,)``; labels too.
        history: of each user, flat: the steps' items, one user after another.
        offsets: where each user's steps begin ``(users + 2,)``; user 0 has none.
        category_of_item: ``(items,)``, 0 for item 0.
        sizes: rows of each table, 0 among them.
    """

    columns: dict[str, np.ndarray]
    history: np.ndarray
    offsets: np.ndarray
    category_of_item: np.ndarray
    sizes: dict[str, int]

    def padded(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Each user's items ``(users, length)``, zeros behind them, and how many there are."""
        lengths = np.diff(self.offsets)
        places = np.arange(length) < lengths[:, None]
        padded = np.zeros(places.shape, np.int32)
        padded[places] = self.history
        return padded, lengths


def make(case: Case, work: Path) -> Path:
    """The folder with a case's raw files and arrays, made where it isn't there."""
    folder = work / "data" / case.data_name
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        (unfinished / "arrays").mkdir(parents=True)
        (_log if case.history is not None else _flat)(case, unfinished)
        unfinished.rename(folder)
    return folder


def load(folder: Path) -> Arrays:
    """The arrays of a folder, memory-mapped."""
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in (folder / "arrays").iterdir()}
    sizes = {n.removeprefix("size."): int(a) for n, a in arrays.items() if n.startswith("size.")}
    columns = {n: a for n, a in arrays.items() if "." not in n}
    empty = np.zeros(0, np.int32)
    return Arrays(
        columns,
        arrays.get("log.history", empty),
        arrays.get("log.offsets", empty),
        arrays.get("log.category_of_item", empty),
        sizes,
    )


def zipf(random: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Ids from 1 to ``size``, ``i`` as likely as ``log((i + 1) / i)``."""
    return np.exp(random.random(count) * math.log(size + 1)).astype(np.int32).clip(1, size)


def _log(case: Case, folder: Path) -> None:
    """A log of past events and impressions, and an item table."""
    random = np.random.default_rng(SEED)
    users = max(2, case.rows // (case.candidates * case.requests_per_user))
    if case.history == "tailed":
        mu = math.log(MEAN_LENGTH) - LOG_SIGMA**2 / 2
        lengths = random.lognormal(mu, LOG_SIGMA, users).astype(np.int64)
        lengths = lengths.clip(0, case.max_length)
    else:
        lengths = np.full(users, case.max_length)
    requests = users * case.requests_per_user
    history = zipf(random, case.items, int(lengths.sum()))
    shown = zipf(random, case.items, requests * case.candidates)
    seen, both = np.unique(np.concatenate([history, shown]), return_inverse=True)
    both = both.astype(np.int32) + 1  # ids that never occur are left out
    history, shown = both[: len(history)], both[len(history) :]
    category_of_item = np.zeros(len(seen) + 1, np.int32)
    category_of_item[1:] = zipf(random, case.categories, len(seen))
    _, dense = np.unique(category_of_item[1:], return_inverse=True)
    category_of_item[1:] = dense + 1

    user_of_request = np.tile(np.arange(1, users + 1, dtype=np.int32), case.requests_per_user)
    moment = np.repeat(np.arange(case.requests_per_user), users) + TRAIN_AT
    order = random.permutation(requests)  # a log isn't sorted by user
    user_of_request, moment = user_of_request[order], moment[order]
    user, time = (x.repeat(case.candidates) for x in (user_of_request, moment))
    click = (random.random(len(shown)) < 0.2).astype(np.int8)
    held_out = [
        (random.integers(1, users + 1, HELD_OUT), random.choice(shown, HELD_OUT), at)
        for at in (VALID_AT, TEST_AT)
    ]
    past_time = np.concatenate([np.arange(length) for length in lengths])
    log = {
        "user": np.concatenate(
            [np.arange(1, users + 1).repeat(lengths), user, *(each[0] for each in held_out)]
        ),
        "item": np.concatenate([history, shown, *(each[1] for each in held_out)]),
        "time": np.concatenate([past_time, time, *(np.full(HELD_OUT, e[2]) for e in held_out)]),
        "shown": np.concatenate(
            [np.zeros(len(history), np.int8), np.ones(len(shown) + 2 * HELD_OUT, np.int8)]
        ),
        "click": np.concatenate(
            [np.zeros(len(history), np.int8), click, np.arange(2 * HELD_OUT, dtype=np.int8) % 2]
        ),
    }
    _write(log, folder / "log.parquet")
    items = {"item": np.arange(1, len(seen) + 1), "category": category_of_item[1:]}
    _write(items, folder / "items.parquet")
    _save(
        folder,
        {
            "user": user,
            "item": shown,
            "category": category_of_item[shown],
            "click": click,
            "time": time,
            "log.history": history,
            "log.offsets": np.concatenate([[0, 0], lengths.cumsum()]),
            "log.category_of_item": category_of_item,
            "size.user": np.asarray(users + 1),
            "size.item": np.asarray(len(seen) + 1),
            "size.category": np.asarray(int(category_of_item.max()) + 1),
        },
    )


def _flat(case: Case, folder: Path) -> None:
    """A table of id columns, number columns and labels."""
    random = np.random.default_rng(SEED)
    columns = {}
    for index, size in enumerate(case.id_sizes):
        spread = case.user_column and index == 0  # users have about as many rows each
        columns[f"c{index}"] = (
            random.integers(1, size, case.rows, dtype=np.int32)
            if spread
            else zipf(random, size - 1, case.rows)
        )
    for index in range(case.numbers):
        columns[f"n{index}"] = random.standard_normal(case.rows, dtype=np.float32)
    for task in case.tasks:
        columns[task] = (random.random(case.rows) < 0.2).astype(np.int8)
    raw = {**columns, "row": np.arange(case.rows)}
    _write(raw, folder / "log.parquet")
    sizes = {f"size.c{index}": np.asarray(size) for index, size in enumerate(case.id_sizes)}
    _save(folder, {**columns, **sizes})


def _write(columns: dict[str, np.ndarray], path: Path) -> None:
    """Write a table; pyarrow is loaded for this only, or every library's memory would have it."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    pq.write_table(pa.table(columns), path)


def _save(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", array)
