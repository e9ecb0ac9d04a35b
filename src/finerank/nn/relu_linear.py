"""A linear map of what a ReLU lets pass, by compiled functions; of several members side by side.

The ReLU is applied on the way into the product, and closes the gradient on its way out, so that
neither goes through memory once more. See ``kernels/members.c``.

Shape letters: ``B`` rows, ``M`` members, ``I`` inputs, ``O`` outputs, ``K`` shares of the rows.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finerank.nn import onednn
from finerank.nn.kernels import library
from finerank.nn.kernels.members import MembersOf
from finerank.nn.products import short_dtype

_WORTH = 2**19  # multiplications, below which there is nothing to gain
_ALIGNED = 16  # numbers
_FEWEST = 64  # rows of a share


def is_relu(finish: nn.Module) -> bool:
    """Whether a ReLU is all that follows a linear map."""
    shapes = nn.Flatten | nn.Unflatten
    kinds = [type(each) for each in finish.children() if not isinstance(each, shapes)]
    return kinds == [nn.ReLU]


def serves(x: Tensor, members: int, outputs: int) -> bool:
    """Whether the compiled functions are the fastest way from rows to so many outputs a member.

    Args:
        x: ``(B, ...)``, with the inputs of all members.
        members: ``M``.
        outputs: ``O``.
    """
    if not library.serves(x):
        return False
    if x.numel() * outputs < _WORTH or outputs % _ALIGNED or x[0].numel() // members % _ALIGNED:
        return False
    return members > 1 or (short_dtype(x) is None and onednn.is_faster())


def relu_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = True) -> Tensor:
    """Return each member's ``W relu(x) + b`` ``(B, M, O)``.

    Args:
        x: ``(B, M, I)``.
        weight: ``(M, O, I)``.
        bias: ``(M, O)``.
        relu: whether there is one; else ``W x + b``.
    """
    output: Tensor = _ReluLinear.apply(x, weight, bias, relu)  # type: ignore[no-untyped-call]
    return output


class _ReluLinear(torch.autograd.Function):
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
        library.call("members_forward", _work(x, weight, relu=relu), bias, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        work = _work(x, weight, relu=ctx.relu)
        of_x = torch.empty_like(x)
        of_weight = weight.new_empty(work.shares, *weight.shape)
        of_bias = weight.new_empty(work.shares, *weight.shape[:2]) if ctx.has_bias else None
        library.call("members_backward", work, gradient.contiguous(), of_x, of_weight, of_bias)
        return of_x, of_weight.sum(dim=0), None if of_bias is None else of_bias.sum(dim=0), None


def _work(x: Tensor, weight: Tensor, *, relu: bool) -> MembersOf:
    """The argument of the functions; it points into the tensors."""
    rows, members, inputs = x.shape
    shares = library.shares_of(rows, fewest=_FEWEST)
    outputs = weight.shape[1]
    return library.filled(MembersOf, shares, rows, members, inputs, outputs, relu, x, weight)
