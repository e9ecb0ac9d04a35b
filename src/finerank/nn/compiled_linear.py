"""Linear maps in float32 by compiled functions; of several members side by side, behind a ReLU.

torch leaves such products to MKL, which uses AVX-512 on Intel's processors only: on others that
have it these are twice as fast, in the same numbers. The ReLU is applied on the way into the
product, and closes the gradient on its way out, so that neither goes through memory once more. See
``kernels/members.c``.

Shape letters: ``B`` rows, ``M`` members, ``I`` inputs, ``O`` outputs.
"""

import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finerank.nn import host
from finerank.nn.kernels import library
from finerank.nn.kernels.members import MembersOf
from finerank.nn.short import short_dtype

_WORTH = 2**19  # multiplications, below which there is nothing to gain
_NARROW = 16  # inputs or outputs, fewer than which are filled up
_FEWEST = 64  # rows of a share


@cache
def is_faster() -> bool:
    """Whether this processor has AVX-512, and MKL makes no use of it."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "AMD" in _processor()


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether the functions are the fastest way to a map of rows, or of each member's rows.

    Under autocast they are for several members, for which torch has no fast product.

    Args:
        x: ``(B, I)``, or ``(B, M, I)``.
        weight: ``(O, I)``, or ``(M, O, I)``.
    """
    short = short_dtype(x)
    if x.dtype not in (torch.float32, short) or not library.serves(weight):
        return False
    *members, outputs, inputs = weight.shape
    if x.shape != (len(x), *members, inputs) or not host.is_readable(x):
        return False
    if not _is_worth(len(x) * weight.numel(), inputs, outputs):
        return False
    return short is None or is_faster() if members else short is None and is_faster()


def serves_rows(x: Tensor, y: Tensor) -> bool:
    """Whether they are the fastest way to `product_of_rows`."""
    if not library.serves(x, y) or len(x) != len(y) or not is_faster():
        return False
    return _is_worth(x.numel() * y.shape[1], x.shape[1], y.shape[1])


def _is_worth(multiplications: int, inputs: int, outputs: int) -> bool:
    return multiplications >= _WORTH and min(inputs, outputs) >= _NARROW


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """Return ``W x + b`` of rows or of each member's rows, or ``W relu(x) + b``.

    Args:
        x: ``(B, I)``, or ``(B, M, I)``; short numbers are made long.
        weight: ``(O, I)``, or ``(M, O, I)``.
        bias: ``(O,)``, or ``(M, O)``.
        relu: whether there is one.

    Returns:
        ``(B, O)``, or ``(B, M, O)``.
    """
    if weight.ndim == 2:  # noqa: PLR2004
        bias = None if bias is None else bias.unsqueeze(0)
        return linear(x.unsqueeze(1), weight.unsqueeze(0), bias, relu=relu).squeeze(1)
    output: Tensor = _Linear.apply(x, weight, bias, relu)  # type: ignore[no-untyped-call]
    return output


def through(x: Tensor, linears: Iterable[nn.Module], finishes: Iterable[nn.Module]) -> Tensor:
    """Return what the last of some layers gives, from the first one's linear map's output.

    Args:
        x: ``(B, O)``, or ``(B, M, O)``.
        linears: the linear maps behind the first, with `weight` and `bias`.
        finishes: what follows each linear map, the first one's too.
    """
    *between, last = finishes
    for finish, layer in zip(between, linears, strict=True):
        weight, bias = torch.as_tensor(layer.weight), layer.bias
        assert bias is None or isinstance(bias, Tensor)
        if _is_relu(finish) and serves(x, weight):
            x = linear(x, weight, bias, relu=True)
        else:
            x = layer(finish(x))
    output: Tensor = last(x)
    return output


def _is_relu(finish: nn.Module) -> bool:
    """Whether a ReLU is all that follows a linear map."""
    shapes = nn.Flatten | nn.Unflatten
    kinds = [type(each) for each in finish.children() if not isinstance(each, shapes)]
    return kinds == [nn.ReLU]


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x W^T`` ``(B, O)``, without a gradient.

    Args:
        x: ``(B, I)``.
        weight: ``(O, I)``.
    """
    x, weight = x.contiguous().unsqueeze(1), weight.contiguous().unsqueeze(0)
    output = x.new_empty(len(x), weight.shape[1])
    library.call("members_forward", _work(x, weight.shape[1], weight, relu=False), None, output)
    return output


def product_of_rows(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x^T y`` ``(I, O)``, without a gradient.

    Args:
        x: ``(B, I)``.
        y: ``(B, O)``.
    """
    x, y = x.contiguous(), y.contiguous().unsqueeze(1)
    work = _work(y, x.shape[1], None, relu=False)  # that of a weight's gradient, y's map to x
    output = x.new_empty(x.shape[1], y.shape[2])
    library.call("members_backward", work, x, None, output)
    return output


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        relu: bool,  # noqa: FBT001 - torch calls it by place
    ) -> Tensor:
        ctx.dtype = x.dtype
        x, weight = x.to(weight.dtype).contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.relu, ctx.has_bias = relu, bias is not None
        output = x.new_empty(*x.shape[:2], weight.shape[1])
        bias = None if bias is None else bias.contiguous()
        library.call("members_forward", _work(x, weight.shape[1], weight, relu=relu), bias, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        work = _work(x, weight.shape[1], weight, relu=ctx.relu)
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        of_x = torch.empty_like(x) if needs_x else None
        of_weight = torch.empty_like(weight) if needs_weight else None
        gradient = gradient.to(weight.dtype).contiguous()
        library.call("members_backward", work, gradient, of_x, of_weight)
        return (
            None if of_x is None else of_x.to(ctx.dtype),
            of_weight,
            gradient.sum(dim=0) if ctx.has_bias else None,
            None,
        )


def _work(x: Tensor, outputs: int, weight: Tensor | None, *, relu: bool) -> MembersOf:
    """The argument of the functions; it points into the tensors."""
    rows, members, inputs = x.shape
    shares = library.shares_of(rows, fewest=_FEWEST)
    return library.filled(MembersOf, shares, rows, members, inputs, outputs, relu, x, weight)


def _processor() -> str:
    """The maker's name, among other things."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return platform.processor()
