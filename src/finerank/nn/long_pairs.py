"""The first layer of target attention where all histories are long and of one length.

Shape letters: ``B`` candidates, each the only one of its request, ``T`` steps of each, ``D`` the
candidate's width, ``S`` a step's, ``H`` the attention's first hidden width, ``K`` candidates that
are worked on together.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_BLOCK = 32  # candidates whose matrices are worked on together


def long_pair_linear(
    candidate: Tensor, values: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    r"""Return :math:`W_c c + W_h h + W_p (c \odot h) + b` of each pair ``(B T, H)``.

    By a matrix for each candidate: :math:`(W_h + W_p\, diag(c))\, h + W_c c + b`. To make it takes
    as long as to cross some steps with the candidate, and spares both that and the product
    :math:`W_h h`.

    Args:
        candidate: ``(B, D)``.
        values: Each candidate's steps, one candidate after another ``(B T, S)``.
        weight: The three side by side ``(H, D + S + D)``.
        bias: ``(H,)``.
    """
    hidden: Tensor = _LongPairLinear.apply(  # type: ignore[no-untyped-call]
        candidate, values, weight, bias
    )
    return hidden


class _LongPairLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        candidate: Tensor,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.has_bias = bias is not None
        ctx.save_for_backward(candidate, values, weight)
        matrices = _Matrices(candidate, weight, values.shape[1])
        by_candidate = functional.linear(candidate, weight[:, : candidate.shape[1]], bias)
        by_candidate = by_candidate.unsqueeze(1)  # (B, 1, H)
        steps = values.view(len(candidate), -1, values.shape[1])  # (B, T, S)
        hidden = by_candidate.new_empty(*steps.shape[:2], weight.shape[0])
        for block in matrices.blocks():
            torch.baddbmm(by_candidate[block], steps[block], matrices.of(block), out=hidden[block])
        return hidden.flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        candidate, values, weight = ctx.saved_tensors
        dim = candidate.shape[1]
        matrices = _Matrices(candidate, weight, values.shape[1])
        steps = values.view(len(candidate), -1, values.shape[1])  # (B, T, S)
        gradient = gradient.reshape(*steps.shape[:2], weight.shape[0])  # (B, T, H)
        sums = gradient.sum(dim=1)  # (B, H)
        d_bias = sums.sum(dim=0) if ctx.has_bias else None
        d_candidate = sums @ weight[:, :dim]
        d_steps = gradient.new_empty(steps.shape)
        d_of_step = gradient.new_zeros(matrices.of_step.shape)  # (S, H)
        d_of_product = gradient.new_zeros(matrices.of_product.shape)  # (D, H)
        for block in matrices.blocks():
            torch.bmm(gradient[block], matrices.of(block).mT, out=d_steps[block])
            d_matrices = torch.bmm(steps[block].mT, gradient[block])  # (K, S, H)
            d_of_step += d_matrices.sum(dim=0)
            of_products = d_matrices[:, :dim]
            d_candidate[block] += (of_products * matrices.of_product).sum(dim=2)
            d_of_product += of_products.mul_(matrices.columns[block]).sum(dim=0)
        d_weight = torch.cat([sums.t() @ candidate, d_of_step.t(), d_of_product.t()], dim=1)
        return d_candidate, d_steps.flatten(0, 1), d_weight, d_bias


class _Matrices:
    """Each candidate's matrix ``(S, H)``, made for some of them at a time.

    Attributes:
        of_step: :math:`W_h` ``(S, H)``.
        of_product: :math:`W_p` ``(D, H)``.
        columns: the candidates ``(B, D, 1)``.
    """

    def __init__(self, candidate: Tensor, weight: Tensor, step_dim: int) -> None:
        self.dim = candidate.shape[1]
        _, *parts = weight.tensor_split([self.dim, self.dim + step_dim], 1)
        self.of_step, self.of_product = (part.t().contiguous() for part in parts)
        self.columns = candidate.unsqueeze(2)

    def of(self, block: slice) -> Tensor:
        """Those of some candidates ``(K, S, H)``."""
        crossed, alone = self.of_step.tensor_split([self.dim])
        matrices = torch.addcmul(crossed, self.columns[block], self.of_product)
        if len(alone) == 0:
            return matrices
        return torch.cat([matrices, alone.expand(len(matrices), *alone.shape)], dim=1)

    def blocks(self) -> Iterator[slice]:
        """Some candidates at a time, whose matrices stay in the cache."""
        count = len(self.columns)
        return (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))
