"""Sums over the pairs of a candidate and a step of its request's history.

Each function has its gradient in closed form: nothing as long as the pairs is built that the
gradient does not need. Shape letters: ``B`` candidates, ``N`` history steps, ``P`` pairs, ``D`` the
candidate's width, ``S`` a step's, ``H`` the attention's first hidden width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finerank.nn.jagged import is_one_each, pair_steps, row_of_value, sum_segments


class Pairs(NamedTuple):
    """Which candidate and which step each pair is of; a candidate's pairs lie together.

    Attributes:
        step: ``(P,)``; None where the pairs are the steps, every request having one candidate.
        candidate: ``(P,)``, ascending.
        offsets: where each candidate's pairs begin and end ``(B + 1,)``.
    """

    step: Tensor | None
    candidate: Tensor
    offsets: Tensor


def pairs_of(offsets: Tensor, request_of_candidate: Tensor) -> Pairs:
    """Pair each candidate with each step of its request's history, in the history's order.

    Args:
        offsets: Where the histories begin and end ``(R + 1,)``.
        request_of_candidate: The request of each candidate ``(B,)``, in any order.
    """
    if is_one_each(request_of_candidate, offsets.shape[0] - 1):
        return Pairs(None, row_of_value(offsets, int(offsets[-1])), offsets)
    step, pair_offsets = pair_steps(offsets, request_of_candidate)
    return Pairs(step, row_of_value(pair_offsets, step.shape[0]), pair_offsets)


def pair_linear(
    candidate: Tensor, values: Tensor, weight: Tensor, bias: Tensor | None, pairs: Pairs
) -> Tensor:
    r"""Return :math:`W_c c + W_h h + W_p (c \odot h) + b` of each pair ``(P, H)``.

    Args:
        candidate: ``(B, D)``.
        values: Steps ``(N, S)``; the product is with their first ``D`` columns.
        weight: The three side by side ``(H, D + S + D)``.
        bias: ``(H,)``.
        pairs: Of the candidates and the steps.
    """
    device = values.device.type
    if torch.is_autocast_enabled(device):  # what autocast does to a matrix product's inputs
        dtype = torch.get_autocast_dtype(device)
        candidate, values, weight = candidate.to(dtype), values.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    hidden: Tensor = _PairLinear.apply(  # type: ignore[no-untyped-call]
        candidate, values, weight, bias, *pairs
    )
    return hidden


def weighted_steps(weights: Tensor, values: Tensor, pairs: Pairs) -> Tensor:
    """Return each candidate's sum of its steps, weighted ``(B, S)``.

    Args:
        weights: Of each pair ``(P,)``.
        values: Steps ``(N, S)``.
        pairs: Of the candidates and the steps.
    """
    sums: Tensor = _WeightedSteps.apply(  # type: ignore[no-untyped-call]
        weights, values, *pairs
    )
    return sums


def _of_pairs(steps: Tensor, step: Tensor | None) -> Tensor:
    """The step of each pair."""
    return steps if step is None else steps.index_select(0, step)


def _of_steps(pairs: Tensor, step: Tensor | None, num_steps: int) -> Tensor:
    """The sum of each step's pairs."""
    if step is None:
        return pairs
    return pairs.new_zeros(num_steps, pairs.shape[1]).index_add_(0, step, pairs)


class _PairLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        candidate: Tensor,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        step: Tensor | None,
        candidate_of_pair: Tensor,
        offsets: Tensor,
    ) -> Tensor:
        dim = candidate.shape[1]
        of_candidate, of_step, of_product = weight.tensor_split([dim, dim + values.shape[1]], 1)
        product = candidate.index_select(0, candidate_of_pair)
        product.mul_(_of_pairs(values[:, :dim], step))  # (P, D)
        hidden = _of_pairs(values @ of_step.t(), step)
        hidden.addmm_(product, of_product.t())
        once = functional.linear(candidate, of_candidate, bias)  # (B, H)
        hidden.add_(once.index_select(0, candidate_of_pair))
        ctx.save_for_backward(candidate, values, weight, product, step, candidate_of_pair, offsets)
        ctx.has_bias = bias is not None
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        candidate, values, weight, product, step, candidate_of_pair, offsets = ctx.saved_tensors
        dim = candidate.shape[1]
        of_candidate, of_step, of_product = weight.tensor_split([dim, dim + values.shape[1]], 1)
        gradient = gradient.contiguous()
        once = sum_segments(gradient, offsets)  # (B, H)
        by_step = _of_steps(gradient, step, values.shape[0])  # (N, H)
        d_weight = torch.cat(
            [once.t() @ candidate, by_step.t() @ values, gradient.t() @ product], dim=1
        )
        d_bias = once.sum(dim=0) if ctx.has_bias else None
        d_product = gradient @ of_product  # (P, D)
        d_values = by_step @ of_step  # (N, S)
        d_shared = candidate.index_select(0, candidate_of_pair).mul_(d_product)
        if step is None:
            d_values[:, :dim] += d_shared
        else:
            d_values[:, :dim].index_add_(0, step, d_shared)
        d_product.mul_(_of_pairs(values[:, :dim], step))
        d_candidate = torch.addmm(sum_segments(d_product, offsets), once, of_candidate)
        return d_candidate, d_values, d_weight, d_bias, None, None, None


class _WeightedSteps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        weights: Tensor,
        values: Tensor,
        step: Tensor | None,
        candidate_of_pair: Tensor,
        offsets: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(weights, values, step, candidate_of_pair)
        places = torch.arange(len(values), device=values.device) if step is None else step
        return functional.embedding_bag(
            places,
            values,
            offsets,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        weights, values, step, candidate_of_pair = ctx.saved_tensors
        by_pair = gradient.index_select(0, candidate_of_pair)  # (P, S)
        d_weights = torch.linalg.vecdot(by_pair, _of_pairs(values, step))
        d_values = _of_steps(by_pair.mul_(weights.unsqueeze(1)), step, values.shape[0])
        return d_weights, d_values, None, None, None
