"""Linear maps in float32 by compiled functions; of several members side by side, behind a ReLU.

torch leaves such products to MKL, which uses AVX-512 on Intel's processors only: on others that
have it these are twice as fast, in the same numbers. The ReLU is applied on the way into the
product, and closes the gradient on its way out, so that neither goes through memory once more. See
``kernels/members.c``.

Shape letters: ``B`` rows, ``M`` members, ``I`` inputs, ``O`` outputs.
"""

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finerank.nn.kernels import library
from finerank.nn.kernels.members import MembersOf

_WORTH = 2**19  # multiplications, below which there is nothing to gain
_NARROW = 16  # inputs or outputs, fewer than which are filled up
_FEWEST = 64  # rows of a share


@cache
def is_faster() -> bool:
    """Whether this processor has AVX-512, and MKL makes no use of it."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "AMD" in _processor()


def serves(x: Tensor, outputs: int, *, members: int = 1) -> bool:
    """Whether the functions are the fastest way from rows to so many outputs of each member.

    Args:
        x: ``(B, ...)``, with the inputs of all members.
        outputs: ``O``.
        members: ``M``; where there are several, torch has no fast product for them.
    """
    if not library.serves(x) or x.numel() * outputs < _WORTH:
        return False
    wide = min(outputs, x.shape[1:].numel() // members) >= _NARROW
    return wide and (members > 1 or is_faster())


def is_relu(finish: nn.Module) -> bool:
    """Whether a ReLU is all that follows a linear map."""
    shapes = nn.Flatten | nn.Unflatten
    kinds = [type(each) for each in finish.children() if not isinstance(each, shapes)]
    return kinds == [nn.ReLU]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """Return ``W x + b`` ``(B, O)``, or ``W relu(x) + b``.

    Args:
        x: ``(B, I)``.
        weight: ``(O, I)``.
        bias: ``(O,)``.
        relu: whether there is one.
    """
    bias = None if bias is None else bias.unsqueeze(0)
    return linear_of_members(x.unsqueeze(1), weight.unsqueeze(0), bias, relu=relu).squeeze(1)


def linear_of_members(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False
) -> Tensor:
    """Return each member's ``W x + b`` ``(B, M, O)``, or ``W relu(x) + b``.

    Args:
        x: ``(B, M, I)``.
        weight: ``(M, O, I)``.
        bias: ``(M, O)``.
        relu: whether there is one.
    """
    output: Tensor = _Linear.apply(x, weight, bias, relu)  # type: ignore[no-untyped-call]
    return output


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x W^T`` ``(B, O)``, without a gradient.

    Args:
        x: ``(B, I)``.
        weight: ``(O, I)``.
    """
    x, weight = x.contiguous().unsqueeze(1), weight.contiguous().unsqueeze(0)
    output = x.new_empty(len(x), weight.shape[1])
    library.call("members_forward", _work(x, weight, relu=False), None, output)
    return output


def product_of_rows(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x^T y`` ``(I, O)``, without a gradient.

    Args:
        x: ``(B, I)``.
        y: ``(B, O)``.
    """
    x, y = x.contiguous(), y.contiguous().unsqueeze(1)
    work = _work(y, x.new_empty(1, x.shape[1], y.shape[2]), relu=False)  # no weight is read
    output = x.new_empty(work.shares, x.shape[1], y.shape[2])
    library.call("members_backward", work, x, None, output)
    return output.sum(dim=0)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        relu: bool,  # noqa: FBT001 - torch calls it by place
    ) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.relu, ctx.has_bias = relu, bias is not None
        output = x.new_empty(*x.shape[:2], weight.shape[1])
        bias = None if bias is None else bias.contiguous()
        library.call("members_forward", _work(x, weight, relu=relu), bias, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        work = _work(x, weight, relu=ctx.relu)
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        of_x = torch.empty_like(x) if needs_x else None
        of_weight = weight.new_empty(work.shares, *weight.shape) if needs_weight else None
        gradient = gradient.contiguous()
        library.call("members_backward", work, gradient, of_x, of_weight)
        return (
            of_x,
            None if of_weight is None else of_weight.sum(dim=0),
            gradient.sum(dim=0) if ctx.has_bias else None,
            None,
        )


def _work(x: Tensor, weight: Tensor, *, relu: bool) -> MembersOf:
    """The argument of the functions; it points into the tensors."""
    rows, members, inputs = x.shape
    shares, outputs = library.shares_of(rows, fewest=_FEWEST), weight.shape[1]
    return library.filled(MembersOf, shares, rows, members, inputs, outputs, relu, x, weight)


def _processor() -> str:
    """The maker's name, among other things."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return platform.processor()
