"""Matrix products of batches that differ in size, on a CPU as fast as torch can make them.

Under autocast they are of short numbers, with rows in numbers that come again (see
`finerank.nn.onednn`); narrow ones stay in float32. In float32 they are left to the library that is
the fastest on this processor. On other devices nothing of this happens.

Shape letters: ``B`` rows, ``I`` inputs, ``O`` outputs.
"""

import torch
from torch import Tensor
from torch.nn import functional

from finerank.nn import compiled_linear, onednn
from finerank.nn.short import short_dtype

_WORTH = 25  # operations for each number that a product reads or writes


def pays(outputs: int, inputs: int) -> bool:
    """Whether a product's work is worth that its inputs and outputs are made short."""
    return outputs * inputs > _WORTH * (outputs + inputs)


def padded(x: Tensor) -> Tensor:
    """Rows ``(B, ...)`` and zeros behind them for a product in short numbers; else themselves.

    What is computed of them is to be `finerank.nn.onednn.cut`.
    """
    dtype = short_dtype(x)
    if dtype is None or onednn.rounded_up(len(x)) == len(x):
        return x
    return onednn.even_rows(x.to(dtype))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x W^T + b`` ``(B, O)``, as `torch.nn.functional.linear` does.

    Args:
        x: ``(B, I)``.
        weight: ``(O, I)``.
        bias: ``(O,)``.
    """
    if short_dtype(x) is None:
        return _long_linear(x, weight, bias)
    if pays(*weight.shape):
        return onednn.cut(functional.linear(padded(x), weight, bias), len(x))
    with torch.autocast("cpu", enabled=False):
        return _long_linear(x.to(weight.dtype), weight, bias)


def bmm(x: Tensor, y: Tensor) -> Tensor:
    """Return the product of each row's two matrices ``(B, N, O)``, as `torch.bmm` does.

    Args:
        x: ``(B, N, I)``.
        y: ``(B, I, O)``.
    """
    return onednn.cut(torch.bmm(padded(x), padded(y)), len(x))


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x W^T`` ``(B, O)`` in the type that both are of, without a gradient.

    Args:
        x: ``(B, I)``.
        weight: ``(O, I)``.
    """
    if compiled_linear.serves(x, weight):
        return compiled_linear.product(x, weight)
    return x @ weight.t()


def product_of_rows(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x^T y`` ``(I, O)`` in the type that both are of, without a gradient.

    Args:
        x: ``(B, I)``.
        y: ``(B, O)``.
    """
    if compiled_linear.serves_rows(x, y):
        return compiled_linear.product_of_rows(x, y)
    return x.t() @ y


def even(x: Tensor, short: torch.dtype | None) -> Tensor:
    """Rows in a short type with zeros behind them, in one pass; themselves where it is None.

    Without a gradient. Whole numbers keep their type.
    """
    if short is None:
        return x
    size, dtype = onednn.rounded_up(x.shape[0]), short if x.is_floating_point() else x.dtype
    rows = x.new_empty(size, *x.shape[1:], dtype=dtype)
    rows[: x.shape[0]].copy_(x)
    rows[x.shape[0] :].zero_()
    return rows


def _long_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if compiled_linear.serves(x, weight):
        return compiled_linear.linear(x, weight, bias)
    return functional.linear(x, weight, bias)
