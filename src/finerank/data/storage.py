"""Columns on disk: appended piece by piece, kept as one Arrow file; and as Arrow reads it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from torch.utils.dlpack import from_dlpack

from finerank.data.arrow_file import mapped
from finerank.data.batch import Column, Jagged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BufferedWriter
    from mmap import mmap
    from pathlib import Path
    from types import TracebackType


class ColumnWriter:
    """Write columns whose length isn't known beforehand, with memory for one piece at a time.

    Pieces go to one raw file a buffer; closing joins them, without loading them, into an Arrow
    file of one record batch, so that every column can be memory-mapped as one tensor. Columns hold
    no nulls and are of fixed width, lists of fixed width (`pa.large_list`) or fixed-size lists.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema, self.rows = path, schema, 0
        self._lengths = {field.name: 0 for field in schema}  # values of a list column so far
        self._stack = contextlib.ExitStack()
        self._files: dict[str, BufferedWriter] = {}

    def __enter__(self) -> ColumnWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for field in self.schema:
            self._open(field.name)
            if pa.types.is_large_list(field.type):
                self._open(f"{field.name}.offsets")
                self._files[f"{field.name}.offsets"].write(bytes(8))
        return self

    def _raw(self, name: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{name}.raw")

    def _open(self, name: str) -> None:
        self._files[name] = self._stack.enter_context(self._raw(name).open("wb"))

    def append(self, columns: Mapping[str, pa.Array]) -> None:
        """Add a piece: one array a column, all of one length."""
        for field in self.schema:
            array = columns[field.name]
            if array.null_count or len(array) != len(columns[self.schema.names[0]]):
                found = f"{array.null_count} nulls and {len(array)} rows"
                msg = f"{field.name}: expected no nulls and one length, found {found}"
                raise ValueError(msg)
            values = array
            if pa.types.is_large_list(field.type):
                values = array.flatten()
                ends = array.value_lengths().to_numpy().cumsum() + self._lengths[field.name]
                self._files[f"{field.name}.offsets"].write(ends.astype("int64").data)
                self._lengths[field.name] += len(values)
            elif pa.types.is_fixed_size_list(field.type):
                values = array.flatten()
            self._files[field.name].write(values.to_numpy(zero_copy_only=False).data)
        self.rows += len(columns[self.schema.names[0]])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        if kind is None:
            arrays = [self._array(field) for field in self.schema]
            write_columns(self.path, pa.record_batch(arrays, schema=self.schema))
        for name in self._files:
            self._raw(name).unlink()

    def _buffer(self, name: str) -> pa.Buffer:
        path = self._raw(name)
        if path.stat().st_size == 0:
            return pa.py_buffer(b"")
        return pa.memory_map(str(path)).read_buffer()

    def _array(self, field: pa.Field) -> pa.Array:
        values = self._buffer(field.name)
        if pa.types.is_large_list(field.type):
            child = pa.Array.from_buffers(
                field.type.value_type, self._lengths[field.name], [None, values]
            )
            offsets = self._buffer(f"{field.name}.offsets")
            return pa.Array.from_buffers(field.type, self.rows, [None, offsets], children=[child])
        if pa.types.is_fixed_size_list(field.type):
            length = self.rows * field.type.list_size
            child = pa.Array.from_buffers(field.type.value_type, length, [None, values])
            return pa.Array.from_buffers(field.type, self.rows, [None], children=[child])
        return pa.Array.from_buffers(field.type, self.rows, [None, values])


def write_columns(path: Path, batch: pa.RecordBatch) -> None:
    """Write one record batch as an Arrow file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def read_batch(path: Path) -> pa.RecordBatch:
    """The record batch of an Arrow file, memory-mapped."""
    return batch_of(mapped(path))


def batch_of(content: mmap) -> pa.RecordBatch:
    """The record batch of an Arrow file that is mapped."""
    return pa.ipc.open_file(pa.py_buffer(content)).get_batch(0)


def as_column(array: pa.Array) -> Column:
    """An Arrow array as a tensor ``(rows,)`` or ``(rows, width)``, or as jagged values."""
    if pa.types.is_large_list(array.type):
        offsets = from_dlpack(array.offsets)
        values = from_dlpack(array.values)
        if len(offsets) == 0:
            offsets = torch.zeros(1, dtype=torch.int64)
        return Jagged(values, offsets)
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        return from_dlpack(array.flatten()).view(len(array), width)
    return from_dlpack(array)
