"""How a raw column becomes numbers; the same code before training and when serving."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finerank.data.vocabulary import Ids, load_ids, save_ids

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from finerank.data.schema import Schema


_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class IdEncoding:
    """One id a row."""

    vocabulary: Ids
    type = pa.int32()

    @property
    def size(self) -> int:
        """Rows of its embedding table, with the unknown row."""
        return len(self.vocabulary)

    def encode(self, values: pa.Array) -> pa.Array:
        """Ids as int32, 0 where null or never seen."""
        return pa.array(self.vocabulary.encode(values), self.type)


@dataclass(frozen=True)
class IdsEncoding:
    """Any number of ids a row, from a list column or from text with a separator."""

    vocabulary: Ids
    separator: str | None
    type = pa.large_list(pa.int32())

    @property
    def size(self) -> int:
        """Rows of its embedding table, with the unknown row."""
        return len(self.vocabulary)

    def encode(self, values: pa.Array) -> pa.Array:
        """Lists of ids; an empty list where null."""
        lists = as_lists(values, self.separator)
        ids = pa.array(self.vocabulary.encode(lists.values), pa.int32())
        return pa.LargeListArray.from_arrays(lists.offsets, ids)


@dataclass(frozen=True)
class NumberEncoding:
    """A number, standardised with the mean and standard deviation of the training period."""

    mean: float
    std: float
    type = pa.float32()
    size = 1

    def encode(self, values: pa.Array) -> pa.Array:
        """Standard deviations from the mean as float32, NaN where missing or infinite."""
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        numbers = (np.where(np.isfinite(numbers), numbers, np.nan) - self.mean) / self.std
        numbers = np.clip(numbers, -_LARGEST, _LARGEST)
        return pa.array(numbers.astype(np.float32), self.type, from_pandas=False)


@dataclass(frozen=True)
class VectorEncoding:
    """A pretrained vector of fixed width."""

    width: int

    @property
    def size(self) -> int:
        """Its width."""
        return self.width

    @property
    def type(self) -> pa.DataType:
        """The Arrow type of what `encode` gives."""
        return pa.list_(pa.float32(), self.width)

    def encode(self, values: pa.Array) -> pa.Array:
        """Vectors as float32; zeros where null.

        Raises:
            ValueError: a vector of another width, or with a value inside that is no finite number.
        """
        lengths = pc.list_value_length(values)
        wrong = pc.fill_null(pc.not_equal(lengths, self.width), fill_value=False)
        if pc.any(wrong).as_py():
            msg = f"vectors of width {self.width}, found one of width {lengths.filter(wrong)[0]}"
            raise ValueError(msg)
        dense = np.zeros((len(values), self.width), dtype=np.float32)
        flat = values.flatten().cast(pa.float32())
        numbers = flat.to_numpy(zero_copy_only=False)
        if not np.isfinite(numbers).all():
            msg = "finite numbers in a vector, found a null, a NaN or an infinity"
            raise ValueError(msg)
        present = values.is_valid().to_numpy(zero_copy_only=False)
        dense[present] = numbers.reshape(-1, self.width)
        return pa.FixedSizeListArray.from_arrays(pa.array(dense.ravel()), self.width)


Encoding: TypeAlias = IdEncoding | IdsEncoding | NumberEncoding | VectorEncoding


def as_lists(values: pa.Array, separator: str | None) -> pa.LargeListArray:
    """A list column, or text with a separator, as lists without nulls, NaN or blank texts."""
    if separator is not None:
        values = pc.split_pattern(values.cast(pa.large_string()), separator)
    flat = values.flatten()
    parents = pc.list_parent_indices(values).to_numpy(zero_copy_only=False)
    if pa.types.is_string(flat.type) or pa.types.is_large_string(flat.type):
        flat = pc.utf8_trim(flat, string.whitespace)
        keep = pc.fill_null(pc.not_equal(flat, ""), fill_value=False)
    else:
        keep = flat.is_valid()
        if pa.types.is_floating(flat.type):
            keep = pc.and_(keep, pc.fill_null(pc.invert(pc.is_nan(flat)), fill_value=False))
    lengths = np.bincount(parents[keep.to_numpy(zero_copy_only=False)], minlength=len(values))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat.filter(keep))


def save_encodings(folder: Path, encodings: Mapping[str, Encoding], schema: Schema) -> None:
    """Write the vocabularies, one file a space, and the statistics of numbers."""
    numbers = {}
    for feature in schema.features:
        encoding = encodings[feature.name]
        if isinstance(encoding, IdEncoding | IdsEncoding):
            assert feature.space is not None
            save_ids(encoding.vocabulary, folder, feature.space)
        elif isinstance(encoding, NumberEncoding):
            numbers[feature.name] = {"mean": encoding.mean, "std": encoding.std}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "numbers.json").write_text(json.dumps(numbers, indent=2))


def load_encodings(folder: Path, schema: Schema) -> dict[str, Encoding]:
    """Read what `save_encodings` wrote."""
    numbers = json.loads((folder / "numbers.json").read_text())
    spaces = {f.space for f in schema.features if f.space is not None}
    vocabularies = {space: load_ids(folder, space) for space in spaces}
    encodings: dict[str, Encoding] = {}
    for feature in schema.features:
        if feature.space is None:
            encodings[feature.name] = (
                VectorEncoding(feature.size)
                if feature.type == "vector"
                else NumberEncoding(**numbers[feature.name])
            )
        elif feature.type == "ids":
            encodings[feature.name] = IdsEncoding(vocabularies[feature.space], feature.separator)
        else:
            encodings[feature.name] = IdEncoding(vocabularies[feature.space])
    return encodings
