"""The same rows of several columns, taken at once.

A batch takes each column's own operation otherwise, and the thread that makes batches would keep
the one that trains waiting for the interpreter.

Shape: ``R`` rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finerank.data.batch import Column, take
from finerank.nn import host
from finerank.nn.kernels import library

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FEWEST = 4  # columns
_BYTES = 4  # of a number


def take_columns(
    columns: Mapping[str, Column],
    rows: Tensor,
    sizes: Mapping[str, int | None],
    count: Tensor | None = None,
) -> dict[str, Column]:
    """The given rows of each column, in that order.

    Args:
        columns: of as many rows each.
        rows: which ``(R,)``.
        sizes: of jagged columns, how many values the rows have together, where it is known.
        count: how many of the rows count, as in `finerank.nn.jagged.expand_ranges`.
    """
    plain = {
        name: column
        for name, column in columns.items()
        if isinstance(column, Tensor) and _is_plain(column)
    }
    taken: dict[str, Column] = {}
    if len(plain) >= _FEWEST and host.is_readable(rows) and library.is_there():
        taken.update(zip(plain, _taken([*plain.values()], rows), strict=True))
    return {
        name: taken[name]
        if name in taken
        else take(column, rows, size=sizes.get(name), count=count)
        for name, column in columns.items()
    }


def _is_plain(column: Tensor) -> bool:
    return (
        column.ndim == 1
        and column.itemsize == _BYTES
        and column.is_contiguous()
        and host.is_readable(column)
    )


def _taken(columns: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
    size = min(map(len, columns))
    addresses = torch.tensor([each.data_ptr() for each in columns])
    found = torch.empty(len(columns), len(rows), dtype=torch.int32)
    state = torch.empty(1, dtype=torch.int64)
    rows = rows.long().contiguous()
    library.call("take", len(columns), addresses, size, len(rows), rows, found, state)
    if int(state) < 0:
        raise library.not_there(rows, size)
    return [part.view(each.dtype) for each, part in zip(columns, found.unbind(0), strict=True)]
