"""Which rows train, which validate, which test: a column ``split`` with 0, 1 and 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import ibis
import numpy as np
import pyarrow as pa

from finerank.errors import FinerankError
from finerank.settings import SPLITS, LastSplit, RandomSplit, TimeSplit

if TYPE_CHECKING:
    from ibis.expr import types

    from finerank.data.engine import Engine
    from finerank.recipe import Recipe

TRAIN, VALID, TEST = range(3)
NO_EXAMPLE = -1  # the split of an event that only histories hold
_HEX_DIGITS = 8  # of a row's hash that decide; four thousand million steps


def with_split(rows: types.Table, recipe: Recipe, engine: Engine) -> types.Table:
    """The rows with the column ``split`` in place of ``no_example``, where it is `NO_EXAMPLE`.

    Args:
        rows: with the condition ``no_example``.
        engine: holds the rows.

    Raises:
        FinerankError: ``valid_from`` or ``test_from`` isn't of the time column's kind.
    """
    split = recipe.split
    if isinstance(split, RandomSplit):
        rows = engine.per_row(rows, lambda rows: rows.mutate(split=_random(rows, split)))
    elif isinstance(split, LastSplit):
        newest = ibis.window(group_by=["user", "no_example"], order_by=[rows.time.desc()])
        place = ibis.dense_rank().over(newest)
        rows = rows.mutate(split=_cases(place < split.test, place < split.test + split.valid))
    elif isinstance(split, TimeSplit):
        valid_from, test_from = _time_bounds(rows.filter(~rows.no_example), split)
        rows = rows.mutate(split=_cases(rows.time >= test_from, rows.time >= valid_from))
    of_example = rows.no_example.ifelse(NO_EXAMPLE, rows.split).cast("int8")
    return rows.mutate(split=of_example).drop("no_example")


def _cases(test: ibis.Value, valid: ibis.Value) -> ibis.Value:
    return ibis.cases((test, TEST), (valid, VALID), else_=TRAIN).cast("int8")


def _random(rows: types.Table, split: RandomSplit) -> ibis.Value:
    test = drawn(rows, split.test, str(split.seed))
    return _cases(test, drawn(rows, split.test + split.valid, str(split.seed)))


def drawn(rows: types.Table, share: float, seed: str, *, split: int | None = None) -> ibis.Value:
    """Whether a row is among a share of all, by the hash of its content: equal rows are together.

    The rows of a smaller share are among those of a larger one of the same seed.

    Args:
        split: stands in that content in place of each row's own.
    """
    digest = ibis.literal(f"{seed}|")
    for name in rows.columns:
        if name == "no_example":
            continue
        text = rows[name].cast("string").fill_null("")
        digest = digest + (str(split) if name == "split" and split is not None else text) + "|"
    most = f"{round(share * 16**_HEX_DIGITS):0{_HEX_DIGITS}x}"
    return digest.hexdigest("md5") < most


def _time_bounds(rows: types.Table, split: TimeSplit) -> tuple[ibis.Value, ibis.Value]:
    """The first times of the validation and of the test period."""
    if split.valid is not None and split.test is not None:
        count = rows.count().to_pyarrow().as_py()
        places = (
            min(count - round(count * later), count - 1)
            for later in (split.valid + split.test, split.test)
        )
        valid_from, test_from = _times_at(rows, list(places))
        return valid_from, test_from
    kind = rows.time.type()
    try:
        # no table's engine has a part in what a time written in a recipe means
        valid_from, test_from = (
            asked(ibis.literal(written).cast(kind).as_table())
            for written in (split.valid_from, split.test_from)
        )
    except (duckdb.Error, ibis.IbisError, TypeError, ValueError) as error:
        raise FinerankError(
            "split.valid_from, split.test_from",
            expected=f"times as in log.time ({kind})",
            found=f"{split.valid_from!r}, {split.test_from!r}",
        ) from error
    return valid_from, test_from


def _times_at(rows: types.Table, places: list[int]) -> list[ibis.Value]:
    """The times at some places of the rows in order of time; the places ascend."""
    counted = rows.group_by("time").agg(n=ibis._.count()).order_by("time")
    found: list[ibis.Value] = []
    before = 0
    for piece in counted.to_pyarrow_batches():
        ends = before + np.cumsum(piece.column("n").to_numpy())
        for place in places[len(found) :]:
            if len(ends) and place < ends[-1]:
                row = int(np.searchsorted(ends, place, side="right"))
                found.append(_told(pa.table({"time": piece.column("time")[row : row + 1]})))
        before = ends[-1] if len(ends) else before
    return found


def asked(one: types.Table) -> ibis.Value:
    """The one value of a table of one row and one column, computed now."""
    return _told(one.to_pyarrow())


def _told(one: pa.Table) -> ibis.Value:
    answer = ibis.memtable(one)
    return answer[answer.columns[0]].as_scalar()


def first_time(rows: types.Table, split: int, recipe: Recipe, *, column: str) -> ibis.Value:
    """When a split begins: for each user by itself where ``split.by`` is last.

    Args:
        column: the times.
    """
    begins = (rows.split == split).ifelse(rows[column], None).min()
    if isinstance(recipe.split, LastSplit):
        return begins.over(ibis.window(group_by="user"))
    return asked(rows.agg(begins=begins))


def check_sizes(rows: types.Table) -> dict[str, int]:
    """How many rows each split has.

    Raises:
        FinerankError: one of them is empty.
    """
    counted = rows.group_by("split").agg(rows=rows.count()).to_pyarrow().to_pylist()
    by_index = {each["split"]: each["rows"] for each in counted}
    sizes: dict[str, int] = {name: by_index.get(index, 0) for index, name in enumerate(SPLITS)}
    empty = [name for name, size in sizes.items() if size == 0]
    if empty:
        raise FinerankError(
            "split",
            expected="rows for train, valid and test",
            found=f"none for {', '.join(empty)} of {sum(sizes.values())} rows",
            fix="Change the shares or times of the split, or bring a longer log.",
        )
    return sizes
