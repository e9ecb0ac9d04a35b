"""Rows for oneDNN, by which torch multiplies short numbers on a CPU.

It makes a kernel for each new number of rows, in the time of several products, and keeps it. So a
number of rows is rounded up to one that comes again, and the rows behind are zeros.

Shape letter: ``B`` rows.
"""

from torch import Tensor
from torch.nn import functional

_DIGITS = 5  # binary ones, of a number of rows: 16 numbers between each power of two and the next


def rounded_up(rows: int) -> int:
    """Return the next number of rows with few binary digits before its zeros."""
    unit = 1 << max(0, rows.bit_length() - _DIGITS)
    return -(-rows // unit) * unit


def even_rows(x: Tensor) -> Tensor:
    """Return rows ``(B, ...)`` and zeros behind them; what is computed of them is to be `cut`."""
    more = rounded_up(len(x)) - len(x)
    return functional.pad(x, (0, 0) * (x.ndim - 1) + (0, more)) if more else x


def cut(x: Tensor, rows: int) -> Tensor:
    """Return so many rows; without a step of a gradient's way back where there are no others."""
    return x if x.shape[0] == rows else x[:rows]
