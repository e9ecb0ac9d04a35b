"""The same rows of several columns, taken at once.

A batch takes each column's own operation otherwise, and the thread that makes batches would keep
the one that trains waiting for the interpreter. On a device an operation takes longer than what it
does: there columns that lie side by side in one matrix are taken in one.

Shapes: ``R`` rows, ``F`` columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finerank.data.batch import Column, Jagged, take
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
    elif not host.is_readable(rows):
        taken.update(_of_matrices(columns, rows))
    return {
        name: taken[name]
        if name in taken
        else take(column, rows, size=sizes.get(name), count=count)
        for name, column in columns.items()
    }


def side_by_side(columns: Mapping[str, Column], device: torch.device) -> dict[str, Column]:
    """Those with a number a row, copied to a device side by side in a matrix of their type."""
    by_type: dict[torch.dtype, dict[str, Tensor]] = {}
    for name, column in columns.items():
        if isinstance(column, Tensor) and column.ndim == 1:
            by_type.setdefault(column.dtype, {})[name] = column
    copied: dict[str, Column] = {}
    for group in by_type.values():
        matrix = torch.stack([*group.values()], dim=1).to(device)  # (R, F)
        copied.update(zip(group, matrix.unbind(1), strict=True))
    return copied


def _of_matrices(columns: Mapping[str, Column], rows: Tensor) -> dict[str, Column]:
    """The given rows of those columns that lie side by side in a matrix."""
    matrices: dict[int, Tensor] = {}
    taken: dict[str, Column] = {}
    for name, column in columns.items():
        if isinstance(column, Jagged) or (matrix := column._base) is None:  # noqa: SLF001
            continue
        if matrix.ndim != 2 or column.stride() != matrix.stride()[:1]:  # noqa: PLR2004
            continue
        if id(matrix) not in matrices:
            matrices[id(matrix)] = matrix.index_select(0, rows)  # (R, F)
        taken[name] = matrices[id(matrix)][:, column.storage_offset()]
    return taken


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
