"""Ids: raw values of any type to integers, 0 for those never seen."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finerank.data.schema import UNKNOWN
from finerank.data.storage import read_batch, write_columns

if TYPE_CHECKING:
    from pathlib import Path

_DICT_PAYS_BELOW = 16  # encode by dictionary where the vocabulary is this many times the input
_SPARSEST = 4  # places of a table for each whole number in it, at most


def canonical(values: pa.Array) -> pa.Array:
    """Raw ids as one of two types: whole numbers as int64, everything else as text.

    Raises:
        ValueError: a float that isn't a whole number, or too large for one.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_null(values.type):
        return values.cast(pa.int64())
    if pa.types.is_uint64(values.type):
        return values.cast(pa.large_string())  # hashes may not fit into int64
    if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        return values.cast(pa.int64())
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:
            whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**63))
            example = values.filter(pc.invert(whole))[0].as_py()
            msg = f"whole numbers or text as ids, found {example}"
            raise ValueError(msg) from None
    return values.cast(pa.large_string())


class Vocabulary:
    """The known values of an id space; the id of a value is its position plus one.

    Args:
        values: unique and not null, int64 or text.
    """

    def __init__(self, values: pa.Array) -> None:
        self.values = canonical(values)

    def __len__(self) -> int:
        """How many rows an embedding table needs: the values and the unknown row."""
        return len(self.values) + 1

    @cached_property
    def _table(self) -> _Table | None:
        return _Table.of(self.values)

    @cached_property
    def _id_of(self) -> dict[object, int]:
        return {value: i for i, value in enumerate(self.values.to_pylist(), start=1)}

    def encode(self, values: pa.Array) -> np.ndarray:
        """Ids ``(rows,)`` int32 of raw values; 0 for null or never seen."""
        values = self._in_my_type(canonical(values))
        if self._table is not None:
            return self._table.encode(values)
        if len(values) * _DICT_PAYS_BELOW < len(self.values):
            get = self._id_of.get
            ids = [get(value, UNKNOWN) for value in values.to_pylist()]
            return np.array(ids, dtype=np.int32)
        positions = pc.index_in(values, value_set=self.values, skip_nulls=True)
        ids = pc.add(positions, pa.scalar(1, pa.int32()))
        return pc.fill_null(ids, UNKNOWN).to_numpy(zero_copy_only=False)

    def _in_my_type(self, values: pa.Array) -> pa.Array:
        """Text that spells a whole number meets a vocabulary of numbers, and the reverse."""
        if values.type == self.values.type:
            return values
        if pa.types.is_int64(self.values.type):
            spells_number = pc.match_substring_regex(values, r"^-?[0-9]{1,18}$")
            values = pc.if_else(spells_number, values, None)
        return values.cast(self.values.type)

    def decode(self, ids: np.ndarray) -> list[object]:
        """The raw values of ids; None for the unknown id."""
        ids = np.asarray(ids, dtype=np.int64)
        positions = pa.array(ids - 1, mask=ids == UNKNOWN)
        return list(self.values.take(positions).to_pylist())

    def save(self, path: Path) -> None:
        """Write to an Arrow file."""
        write_columns(path, pa.record_batch({"value": self.values}))

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote."""
        return cls(read_batch(path).column("value"))


class _Table:
    """The id of every whole number from the least value of a vocabulary to its greatest.

    Args:
        values: of the vocabulary, int64, not empty.
        low: the least.
        high: the greatest.
    """

    def __init__(self, values: np.ndarray, low: int, high: int) -> None:
        self.low, self.high = low, high
        self._ids = np.full(high - low + 1, UNKNOWN, dtype=np.int32)
        self._ids[values - low] = np.arange(1, len(values) + 1, dtype=np.int32)

    @classmethod
    def of(cls, values: pa.Array) -> _Table | None:
        """That of a vocabulary's values, where they are whole numbers that lie close together."""
        if not pa.types.is_int64(values.type) or len(values) == 0:
            return None
        numbers = _numbers(values)
        low, high = int(numbers.min()), int(numbers.max())
        return cls(numbers, low, high) if high - low < _SPARSEST * len(numbers) else None

    def encode(self, values: pa.Array) -> np.ndarray:
        """Ids ``(rows,)`` int32 of int64 values; 0 for null or never seen."""
        numbers = _numbers(values)
        known = (numbers >= self.low) & (numbers <= self.high)
        if values.null_count:
            known &= np.from_dlpack(values.is_valid().cast(pa.int8())) == 1
        if known.all():
            return self._ids.take(numbers - self.low)
        ids = np.full(len(numbers), UNKNOWN, dtype=np.int32)
        ids[known] = self._ids.take(numbers[known] - self.low)
        return ids


def _numbers(values: pa.Array) -> np.ndarray:
    """Int64 values, any number for null; Arrow's own way would load pandas."""
    buffers = [None, values.buffers()[1]]
    return np.from_dlpack(
        pa.Array.from_buffers(pa.int64(), len(values), buffers, offset=values.offset)
    )


class Buckets:
    """Ids by hash, for a space whose values have no bound; nothing is fitted, nothing unknown.

    The hash is of the value's text, the same in every process and on every machine. Two values
    share a bucket with probability ``1 / count``.

    Args:
        count: how many buckets; ids are 1 to ``count``, and 0 for null.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        """How many rows an embedding table needs: the buckets and the unknown row."""
        return self.count + 1

    def encode(self, values: pa.Array) -> np.ndarray:
        """Ids ``(rows,)`` int32 of raw values; 0 for null."""
        from pandas.util import hash_array  # noqa: PLC0415  (half a second that few need)

        texts = canonical(values).cast(pa.large_string()).dictionary_encode()
        distinct = texts.dictionary.to_numpy(zero_copy_only=False).astype(object)
        hashes = hash_array(distinct, categorize=False)  # (distinct,) uint64
        ids = np.append(1 + hashes % np.uint64(self.count), UNKNOWN).astype(np.int32)
        places = pc.fill_null(texts.indices, len(distinct)).to_numpy(zero_copy_only=False)
        return np.asarray(ids[places])


Ids: TypeAlias = Vocabulary | Buckets


def save_ids(ids: Ids, folder: Path, space: str) -> None:
    """Write an id space's vocabulary, or how many buckets it has."""
    if isinstance(ids, Vocabulary):
        ids.save(folder / f"{space}.arrow")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{space}.buckets.json").write_text(json.dumps({"buckets": ids.count}))


def load_ids(folder: Path, space: str) -> Ids:
    """Read what `save_ids` wrote."""
    hashed = folder / f"{space}.buckets.json"
    if hashed.exists():
        return Buckets(json.loads(hashed.read_text())["buckets"])
    return Vocabulary.load(folder / f"{space}.arrow")
