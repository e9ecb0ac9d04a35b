"""The columns of an Arrow file as memory-mapped tensors, read without pyarrow.

pyarrow takes 40 MB for as long as a process trains. What is read here is what
`finerank.data.storage` writes: one record batch, uncompressed, without nulls, of numbers, of lists
of numbers (`pyarrow.large_list`) and of fixed-size lists of numbers.

Source:
    The file: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format. The tables in it,
    of File.fbs, Message.fbs and Schema.fbs in https://github.com/apache/arrow/tree/main/format:
    https://flatbuffers.dev/internals.
"""

from __future__ import annotations

import mmap
import struct
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from finerank.data.batch import Column, Jagged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

_MAGIC = b"ARROW1"
_INT, _FLOAT, _FIXED_SIZE_LIST, _LARGE_LIST = 2, 3, 16, 21  # of the union Type
_INTS = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}  # by bitWidth
_FLOATS = {1: torch.float32, 2: torch.float64}  # by Precision
_BLOCK, _NODE, _BUFFER = "<qi4xq", "<qq", "<qq"  # structs


def mapped(path: Path) -> mmap.mmap:
    """The bytes of a file, mapped for reading; none of them is read yet."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_columns(path: Path) -> dict[str, Column]:
    """The columns of an Arrow file as memory-mapped tensors, which must not be written to.

    Raises:
        ValueError: it is no Arrow file, or a part of one, or holds what isn't read here.
    """
    content = mapped(path)
    if not content[:6] == content[-6:] == _MAGIC:
        raise ValueError(f"{path}: expected a whole Arrow file, found something else")
    end = len(content) - len(_MAGIC) - 4
    footer = _Table.root(content, end - _number(content, end, "<i"))
    (message, metadata_bytes, _), *others = footer.structs(3, _BLOCK)
    batch = _Table.root(content, message + 8).table(2)
    if others or batch.has(3):
        raise ValueError(f"{path}: expected one record batch, uncompressed")
    parts = _Parts(
        content,
        message + metadata_bytes,
        iter(batch.structs(1, _NODE)),
        iter(batch.structs(2, _BUFFER)),
    )
    return {field.text(0): parts.column(field) for field in footer.table(1).tables(1)}


class _Table(NamedTuple):
    """A FlatBuffers table; its fields are numbered as in its declaration.

    Attributes:
        content: of the file.
        place: of the table in it.
    """

    content: mmap.mmap
    place: int

    @classmethod
    def root(cls, content: mmap.mmap, place: int) -> _Table:
        """The one that is pointed to at a place."""
        return cls(content, place + _number(content, place, "<I"))

    def table(self, field: int) -> _Table:
        """A field that is a table."""
        return self.root(self.content, self._place(field))

    def number(self, field: int, form: str) -> int:
        """A field that is a number, 0 where left out."""
        place = self._place(field)
        return _number(self.content, place, form) if place else 0

    def has(self, field: int) -> bool:
        """Whether a field is there."""
        return self._place(field) > 0

    def text(self, field: int) -> str:
        """A field that is a string."""
        place, length = self._vector(field)
        return self.content[place : place + length].decode()

    def structs(self, field: int, form: str) -> list[tuple[int, ...]]:
        """A field that is a vector of structs."""
        place, length = self._vector(field)
        return list(
            struct.iter_unpack(form, self.content[place : place + length * struct.calcsize(form)])
        )

    def tables(self, field: int) -> list[_Table]:
        """A field that is a vector of tables."""
        place, length = self._vector(field)
        return [self.root(self.content, place + 4 * index) for index in range(length)]

    def _vector(self, field: int) -> tuple[int, int]:
        """Where a vector begins, and how many elements it has."""
        place = self._place(field)
        place += _number(self.content, place, "<I")
        return place + 4, _number(self.content, place, "<I")

    def _place(self, field: int) -> int:
        """Where a field is, 0 where left out."""
        described = self.place - _number(self.content, self.place, "<i")
        entry = 4 + 2 * field
        if entry >= _number(self.content, described, "<H"):
            return 0
        offset = _number(self.content, described + entry, "<H")
        return self.place + offset if offset else 0


class _Parts(NamedTuple):
    """What the columns of a record batch are made of, in the order of their fields.

    Attributes:
        content: of the file.
        body: where its buffers begin.
        nodes: length and number of nulls of each field and of each field in a list.
        buffers: place in the body and length.
    """

    content: mmap.mmap
    body: int
    nodes: Iterator[tuple[int, ...]]
    buffers: Iterator[tuple[int, ...]]

    def column(self, field: _Table) -> Column:
        """The next column."""
        length, nulls = next(self.nodes)
        next(self.buffers)  # which are null
        kind, details = field.number(2, "<B"), field.table(3)
        if kind == _LARGE_LIST:
            bounds = self._tensor(torch.int64, length + 1)
            (values,) = map(self.column, field.tables(5))
            assert not isinstance(values, Jagged)
            return Jagged(values, bounds)
        if kind == _FIXED_SIZE_LIST:
            (values,) = map(self.column, field.tables(5))
            assert not isinstance(values, Jagged)
            return values.view(length, details.number(0, "<i"))
        dtype = None
        if kind == _INT and details.number(1, "<?"):  # signed
            dtype = _INTS[details.number(0, "<i")]
        elif kind == _FLOAT:
            dtype = _FLOATS.get(details.number(0, "<h"))
        if dtype is None or nulls:
            raise ValueError(f"{field.text(0)}: expected signed integers or floats without nulls")
        return self._tensor(dtype, length)

    def _tensor(self, dtype: torch.dtype, length: int) -> Tensor:
        """The next buffer as so many numbers; of no lists there may be no bounds at all."""
        place, size = next(self.buffers)
        if size == 0:
            return torch.zeros(length, dtype=dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            return torch.frombuffer(
                self.content, dtype=dtype, count=length, offset=self.body + place
            )


def _number(content: mmap.mmap, place: int, form: str) -> Any:  # noqa: ANN401
    return struct.unpack_from(form, content, place)[0]
