"""Matrix products by oneDNN, which torch has beside MKL on a CPU.

torch leaves float32 to MKL, which uses AVX-512 on Intel's processors only. oneDNN uses it on all
that have it: there it is twice as fast, in the same numbers.

oneDNN makes a kernel for each new number of rows, in the time of several products, and keeps it. So
a number of rows is rounded up to one that comes again, and the rows behind are zeros.

Shape letters: ``B`` rows, ``I`` inputs, ``O`` outputs.
"""

import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from finerank.nn import host

_WORTH = 2**23  # multiplications in a product, below which setting it up takes what it saves
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


def multiplies(x: Tensor, outputs: int) -> bool:
    """Whether oneDNN is faster for rows ``(B, I)`` times a matrix ``(I, O)``."""
    return (
        x.dtype == torch.float32
        and host.is_readable(x)
        and x.numel() * outputs >= _WORTH
        and is_faster()
    )


@cache
def is_faster() -> bool:
    """Whether this processor has AVX-512, torch has oneDNN, and MKL makes no use of the former."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AMD" in _processor()
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x W^T + b`` ``(B, O)``, without a gradient.

    Args:
        x: ``(B, I)``.
        weight: ``(O, I)``.
        bias: ``(O,)``.
    """
    output: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001 - the one door to it
        even_rows(x), _whole(weight), bias, "none", [], ""
    )
    return cut(output, len(x))


def product_of_rows(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x^T y`` ``(I, O)``, without a gradient: that of a convolution's weight, one wide.

    Args:
        x: ``(B, I)``, at least one row.
        y: ``(B, O)``.
    """
    if x.shape[1] < y.shape[1]:  # faster than the other way round
        return product_of_rows(y, x).t().contiguous()
    x, y, shape = even_rows(x), even_rows(y), (x.shape[1], y.shape[1], 1, 1)
    _, output, _ = torch.ops.aten.convolution_backward(
        _pixels(x),
        _pixels(y),
        x.new_empty(1).expand(shape),
        None,
        stride=[1, 1],
        padding=[0, 0],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=[False, True, False],
    )
    return output.view(shape[:2])


def _whole(weight: Tensor) -> Tensor:
    """A matrix whose numbers lie side by side, by rows or columns: of a part of one it is slow."""
    return weight if weight.t().is_contiguous() else weight.contiguous()


def _pixels(x: Tensor) -> Tensor:
    """Rows as the pixels of one image, their numbers as its channels."""
    return x.contiguous().view(1, len(x), 1, -1).permute(0, 3, 1, 2)


def _processor() -> str:
    """The maker's name, among other things."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return platform.processor()
