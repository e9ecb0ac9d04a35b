"""Matrix products in short numbers, on a CPU, of batches that differ in size.

There oneDNN makes a kernel for each new number of rows, in the time of several products, and keeps
it. So a number of rows is rounded up to one that comes again, and the rows behind are zeros. Narrow
products stay in float32. Without autocast, and on other devices, nothing of this happens.

Shape letters: ``B`` rows, ``I`` inputs, ``O`` outputs.
"""

import torch
from torch import Tensor
from torch.nn import functional

from finerank.nn import host

_WORTH = 25  # operations for each number that a product reads or writes
_DIGITS = 5  # binary ones, of a number of rows: 16 numbers between each power of two and the next


def short_dtype(x: Tensor) -> torch.dtype | None:
    """The type in which autocast computes products on a CPU; else None."""
    if host.is_readable(x) and torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return None


def pays(outputs: int, inputs: int) -> bool:
    """Whether a product's work is worth that its inputs and outputs are made short."""
    return outputs * inputs > _WORTH * (outputs + inputs)


def padded(x: Tensor) -> Tensor:
    """Rows ``(B, ...)`` and zeros behind them for a product in short numbers; else themselves.

    What is computed of them is to be `cut`.
    """
    dtype, size = short_dtype(x), _rounded_up(x.shape[0])
    if dtype is None or size == x.shape[0]:
        return x
    return functional.pad(x.to(dtype), (0, 0) * (x.ndim - 1) + (0, size - x.shape[0]))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x W^T + b`` ``(B, O)``, as `torch.nn.functional.linear` does.

    Args:
        x: ``(B, I)``.
        weight: ``(O, I)``.
        bias: ``(O,)``.
    """
    if short_dtype(x) is not None and not pays(*weight.shape):
        with torch.autocast("cpu", enabled=False):
            return functional.linear(x.to(weight.dtype), weight, bias)
    return cut(functional.linear(padded(x), weight, bias), x.shape[0])


def bmm(x: Tensor, y: Tensor) -> Tensor:
    """Return the product of each row's two matrices ``(B, N, O)``, as `torch.bmm` does.

    Args:
        x: ``(B, N, I)``.
        y: ``(B, I, O)``.
    """
    return cut(torch.bmm(padded(x), padded(y)), x.shape[0])


def cut(x: Tensor, rows: int) -> Tensor:
    """Return so many rows; without a step of a gradient's way back where there are no others."""
    return x if x.shape[0] == rows else x[:rows]


def even(x: Tensor, short: torch.dtype | None) -> Tensor:
    """Rows in a short type with zeros behind them, in one pass; themselves where it is None.

    Without a gradient. Whole numbers keep their type.
    """
    if short is None:
        return x
    size, dtype = _rounded_up(x.shape[0]), short if x.is_floating_point() else x.dtype
    rows = x.new_empty(size, *x.shape[1:], dtype=dtype)
    rows[: x.shape[0]].copy_(x)
    rows[x.shape[0] :].zero_()
    return rows


def _rounded_up(rows: int) -> int:
    """The next number of rows with few binary digits before its zeros."""
    unit = 1 << max(0, rows.bit_length() - _DIGITS)
    return -(-rows // unit) * unit
