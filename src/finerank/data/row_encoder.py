"""Rows under names of our own as numbers; the same before training and when serving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finerank.data.times import Times, as_times
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from finerank.data.encoding import Encoding
    from finerank.data.entities import Entities
    from finerank.data.schema import Home
    from finerank.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class EncodedRows:
    """Rows as numbers.

    Attributes:
        user: row of the user in the prepared user table ``(rows,)`` int32, 0 where unknown.
        item: likewise.
        time: or None where the log has no time.
        features: name -> encoded column.
    """

    user: np.ndarray | None
    item: np.ndarray | None
    time: Times | None
    features: dict[str, pa.Array]

    def __len__(self) -> int:
        columns = (self.user, self.item, self.time, *self.features.values())
        return next((len(column) for column in columns if column is not None), 0)

    def take(self, places: np.ndarray) -> EncodedRows:
        """The rows at the given places."""
        return EncodedRows(
            user=None if self.user is None else self.user[places],
            item=None if self.item is None else self.item[places],
            time=None if self.time is None else self.time[places],
            features={name: array.take(pa.array(places)) for name, array in self.features.items()},
        )


class RowEncoder:
    """Turns raw rows into numbers with what was fitted on the training period."""

    def __init__(
        self,
        encodings: Mapping[str, Encoding],
        *,
        users: Vocabulary | None,
        items: Vocabulary | None,
    ) -> None:
        self.encodings, self.users, self.items = encodings, users, items

    @classmethod
    def of(cls, encodings: Mapping[str, Encoding], entities: Mapping[Home, Entities]) -> RowEncoder:
        """With the ids of the users and items that there are."""
        keys = {home: each.keys for home, each in entities.items()}
        return cls(encodings, users=keys.get("users"), items=keys.get("items"))

    def encode(self, rows: pa.RecordBatch | pa.Table, features: Sequence[str]) -> EncodedRows:
        """Encode the user, item and time of rows, and the named features.

        Raises:
            FinerankError: a value that its encoding can't take, with the column.
        """
        columns = set(rows.schema.names)
        return EncodedRows(
            user=self.users.encode(_flat(rows, "user")) if self.users is not None else None,
            item=self.items.encode(_flat(rows, "item")) if self.items is not None else None,
            time=_times(_flat(rows, "time")) if "time" in columns else None,
            features={name: self.encode_feature(name, rows) for name in features},
        )

    def encode_feature(self, name: str, rows: pa.RecordBatch | pa.Table) -> pa.Array:
        """Encode one feature of raw rows, from its column ``feature.NAME``."""
        values = _flat(rows, f"feature.{name}")
        try:
            return self.encodings[name].encode(values)
        except (ValueError, pa.ArrowException) as error:
            expected = str(error).partition(", found ")
            raise FinerankError(
                f"features.{name}",
                expected=expected[0] if expected[1] else "values of the feature's type",
                found=expected[2] or str(error).splitlines()[0],
            ) from error

    def encode_keys(self, name: str, keys: Vocabulary) -> np.ndarray:
        """A feature that is the user's or item's own id: of the unknown one, then of each key."""
        values = pa.concat_arrays([pa.nulls(1, keys.values.type), keys.values])
        column = pa.record_batch({f"feature.{name}": values})
        return np.asarray(self.encode_feature(name, column))


def _flat(rows: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    column = rows.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _times(values: pa.Array) -> Times:
    try:
        return as_times(values)
    except ValueError as error:
        _, _, found = str(error).partition(", found ")
        raise FinerankError(
            "log.time",
            expected="numbers, dates or times",
            found=found or " ".join(str(error).split()),
            fix="Cast it under log.derive, such as when: CAST(time AS TIMESTAMP).",
        ) from error


def starts_request(
    rows: EncodedRows, features: Sequence[str], previous: EncodedRows | None = None
) -> np.ndarray:
    """Where a new request begins: another user, time or context than the row before.

    Rows without user or without time are requests of their own.

    Args:
        features: the request's features among the rows' own.
        previous: the row before the first.
    """
    if rows.user is None or rows.time is None:
        return np.ones(len(rows), dtype=bool)
    starts = np.zeros(len(rows), dtype=bool)
    starts[:1] = previous is None
    pairs: list[tuple[np.ndarray | pa.Array, np.ndarray | pa.Array | None]] = [
        (rows.user, previous.user if previous else None),
        (rows.time, previous.time if previous else None),
        *((rows.features[f], previous.features[f] if previous else None) for f in features),
    ]
    for column, before in pairs:
        starts |= _changes(column, before)
    return starts


def _changes(column: np.ndarray | pa.Array, before: np.ndarray | pa.Array | None) -> np.ndarray:
    """Where a value differs from the one before it; False at the first without one before."""
    if isinstance(column, np.ndarray):
        values = column if before is None else np.concatenate([before, column])
        differs = values[1:] != values[:-1]
    else:
        joined = column if before is None else pa.concat_arrays([before, column])
        differs = _array_changes(joined)
    return np.concatenate([[False], differs]) if before is None else differs


def _array_changes(array: pa.Array) -> np.ndarray:
    if pa.types.is_fixed_size_list(array.type):
        dense = array.flatten().to_numpy().reshape(len(array), -1)
        return np.asarray((dense[1:] != dense[:-1]).any(axis=1))
    if pa.types.is_large_list(array.type):
        # equal lists have equal text; contexts of several ids are short and rare
        texts = np.array([str(each) for each in array.to_pylist()])
        return np.asarray(texts[1:] != texts[:-1])
    values = array.to_numpy(zero_copy_only=False)
    both_missing = (values[1:] != values[1:]) & (values[:-1] != values[:-1])
    return np.asarray((values[1:] != values[:-1]) & ~both_missing)
