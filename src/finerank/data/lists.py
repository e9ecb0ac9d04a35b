"""Steps that rows hold ready-made, encoded: the same code before training and when serving.

Shapes: ``R`` rows, ``N`` steps of all rows, those of a row oldest first.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from finerank.data.list_store import ListStore
from finerank.data.storage import as_column
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from finerank.data.row_encoder import RowEncoder
    from finerank.recipe import Recipe


@dataclass(frozen=True)
class Listed:
    """The steps of one history that rows hold, encoded.

    Attributes:
        offsets: steps of row ``r`` are ``offsets[r]:offsets[r + 1]``, ``(R + 1,)``.
        item: row of each step's item ``(N,)``, or None where nothing is looked up by it.
        features: feature -> values ``(N,)``.
    """

    offsets: np.ndarray
    item: np.ndarray | None
    features: dict[str, pa.Array]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: np.ndarray) -> Listed:
        """The given rows."""
        lengths = np.diff(self.offsets)[rows]
        places = ranges(self.offsets[rows], lengths)
        return Listed(
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            item=None if self.item is None else self.item[places],
            features={name: each.take(pa.array(places)) for name, each in self.features.items()},
        )

    def changes(self, previous: Listed | None = None) -> np.ndarray:
        """Where a row's steps differ from those of the row before ``(R,)``.

        Args:
            previous: the row before the first; where left out, the first differs.
        """
        rows = self if previous is None else _joined(previous, self)
        lengths = np.diff(rows.offsets)
        differs = np.ones(len(rows), dtype=bool)
        differs[1:] = lengths[1:] != lengths[:-1]
        row_of = np.repeat(np.arange(len(rows)), lengths)
        places = np.flatnonzero(~differs[row_of])  # whose row before is as long
        row_of = row_of[places]
        arrays = [] if rows.item is None else [rows.item]
        arrays += [each.to_numpy() for each in rows.features.values()]
        for values in arrays:
            one, other = values[places], values[places - lengths[row_of]]
            unequal = (one != other) & ((one == one) | (other == other))  # noqa: PLR0124  (NaN)
            differs[row_of[unequal]] = True
        return differs if previous is None else differs[1:]

    def store(self) -> ListStore:
        """The steps as what windows lie over."""
        return ListStore(
            item=None if self.item is None else torch.tensor(self.item),
            columns={name: as_column(each) for name, each in self.features.items()},
        )


def _joined(one: Listed, other: Listed) -> Listed:
    return Listed(
        offsets=np.concatenate([one.offsets, one.offsets[-1] + other.offsets[1:]]),
        item=None
        if one.item is None or other.item is None
        else np.concatenate([one.item, other.item]),
        features={
            name: pa.concat_arrays([each, other.features[name]])
            for name, each in one.features.items()
        },
    )


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The places ``starts[i] .. starts[i] + lengths[i] - 1``, end to end.

    >>> ranges(np.array([5, 0, 2]), np.array([2, 0, 3])).tolist()
    [5, 6, 2, 3, 4]
    """
    ends = np.cumsum(lengths)
    return np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)


def read_lists(
    rows: pa.RecordBatch | pa.Table, name: str, recipe: Recipe, encoder: RowEncoder
) -> Listed:
    """The steps that rows hold of a history: the most recent ``max_length`` of each, encoded.

    Args:
        rows: with the columns ``list.HISTORY.FEATURE``.
        name: of the history.

    Raises:
        FinerankError: a column holds no lists, or the lists of a row are of different lengths.
    """
    history = recipe.histories[name]
    lists = history.lists or {}
    values, lengths = {}, {}
    for feature, column in lists.items():
        raw = rows.column(f"list.{name}.{feature}")
        raw = raw.combine_chunks() if isinstance(raw, pa.ChunkedArray) else raw
        where = f"histories.{name}.lists.{feature}"
        values[feature], lengths[feature] = _flat(raw, history.separator, column, where)
    _check_lengths(rows, name, lists, lengths)
    full = next(iter(lengths.values()))
    kept = np.minimum(full, history.max_length)
    starts = np.cumsum(full) - full
    if history.newest == "last":
        places = ranges(starts + full - kept, kept)
    else:  # each row backwards: the negative of a range that grows
        places = -ranges(1 - starts - kept, kept)
    taken = {feature: each.take(pa.array(places)) for feature, each in values.items()}
    by = recipe.item_list(history)
    looked_up = by is not None and len(lists) < len(history.features)
    assert encoder.items is not None or not looked_up
    return Listed(
        offsets=np.concatenate([[0], np.cumsum(kept)]),
        item=encoder.items.encode(taken[by])
        if looked_up and by is not None and encoder.items is not None
        else None,
        features={
            feature: encoder.encode_feature(feature, pa.record_batch({f"feature.{feature}": each}))
            for feature, each in taken.items()
        },
    )


def _flat(
    raw: pa.Array, separator: str | None, column: str, where: str
) -> tuple[pa.Array, np.ndarray]:
    """The elements of all lists end to end, and the length of each list; 0 where it is null.

    Of a text that is blank there are none; a blank between two separators is a null.
    """
    kind = raw.type
    if pa.types.is_null(kind):
        return pa.nulls(0), np.zeros(len(raw), dtype=np.int64)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if separator is not None and is_text:
        raw = raw.cast(pa.large_string())
        blank = pc.equal(pc.utf8_trim(raw, string.whitespace), "")
        raw = pc.split_pattern(pc.if_else(blank, None, raw), separator)
    elif separator is not None or not _is_list(kind):
        beside = "without" if separator is None else "beside"
        raise FinerankError(
            where,
            expected="a list column, or text and a separator",
            found=f"{column!r} of type {kind} {beside} a separator",
        )
    lengths = pc.fill_null(pc.list_value_length(raw), 0).to_numpy(zero_copy_only=False)
    flat = raw.flatten()
    if separator is not None:
        flat = pc.utf8_trim(flat, string.whitespace)
        flat = pc.if_else(pc.equal(flat, ""), None, flat)
    return flat, lengths.astype(np.int64)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _check_lengths(
    rows: pa.RecordBatch | pa.Table,
    name: str,
    lists: dict[str, str],
    lengths: dict[str, np.ndarray],
) -> None:
    """Check that the lists of each row are of one length."""
    first = next(iter(lengths.values()))
    wrong = np.logical_or.reduce([each != first for each in lengths.values()])
    for row in np.flatnonzero(wrong)[:1].tolist():
        found = ", ".join(f"{each[row]} in {lists[feature]!r}" for feature, each in lengths.items())
        known = [key for key in ("user", "item", "time") if key in rows.schema.names]
        shown = known or [f"list.{name}.{feature}" for feature in lists]
        values = ", ".join(f"{key} {rows.column(key)[row].as_py()!r}" for key in shown)
        raise FinerankError(
            f"histories.{name}.lists",
            expected="lists of one length in each row",
            found=f"{found}, in the row with {values}",
            fix="A step without a value is a null in the list, not left out.",
        )
