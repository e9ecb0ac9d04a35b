"""Rows that repeat another: the same user, item, time, labels and features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_KEYS = ("user", "item", "time")


class Repeats:
    """Counts rows that are equal to the one before them, in order of all their columns.

    Attributes:
        count: how many there were.
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: list[str] | None = None

    def add(self, piece: pa.RecordBatch) -> None:
        """Add rows with user, item and time."""
        if not piece.num_rows:
            return
        same = np.ones(piece.num_rows - 1, dtype=bool)
        for name in _KEYS:
            values = piece.column(name)
            same &= values[1:].to_numpy(zero_copy_only=False) == values[:-1].to_numpy(
                zero_copy_only=False
            )
        # few are of one user, item and time: these are compared one by one, as text, since a NaN
        # is unequal to itself
        for number in np.flatnonzero(same).tolist():
            self.count += _row(piece, number) == _row(piece, number + 1)
        self.count += self._before == _row(piece, 0)
        self._before = _row(piece, piece.num_rows - 1)


def _row(piece: pa.RecordBatch, number: int) -> list[str]:
    return [str(column[number].as_py()) for column in piece.columns]
