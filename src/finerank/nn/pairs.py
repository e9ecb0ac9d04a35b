"""Sums over the pairs of a candidate and a step of its request's history.

Each function has its gradient in closed form. Vectors of pairs are worked on a part at a time that
stays in the cache, and only what has the attention's width is kept.

Shape letters: ``B`` candidates, ``N`` history steps, ``P`` pairs, ``D`` the candidate's width,
``S`` a step's, ``H`` the attention's first hidden width.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finerank.nn import host
from finerank.nn.jagged import is_one_each, pair_steps, row_of_value, sum_segments

_PART = 2**20  # numbers in the vectors of pairs that are worked on together: 4 MiB


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


def pairs_of(
    offsets: Tensor, request_of_candidate: Tensor, *, num_pairs: int | None = None
) -> Pairs:
    """Pair each candidate with each step of its request's history, in the history's order.

    Args:
        offsets: Where the histories begin and end ``(R + 1,)``.
        request_of_candidate: The request of each candidate ``(B,)``, in any order.
        num_pairs: How many there are ``P``, where it is known; else a device is waited for.
    """
    if is_one_each(request_of_candidate, offsets.shape[0] - 1):
        return Pairs(None, row_of_value(offsets, int(offsets[-1])), offsets)
    step, pair_offsets = pair_steps(offsets, request_of_candidate, num_pairs=num_pairs)
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


class _Part(NamedTuple):
    """Some candidates with all their pairs."""

    candidates: slice
    pairs: slice


def _parts(offsets: Tensor, num_pairs: int, width: int) -> Iterator[_Part]:
    """Cut the candidates where their pairs' vectors of this width fill a part of the cache."""
    if not host.is_readable(offsets):  # a device has no use for parts
        yield _Part(slice(0, offsets.shape[0] - 1), slice(0, num_pairs))
        return
    size = max(1, _PART // max(1, width))
    cuts = torch.arange(size, max(num_pairs, size), size, device=offsets.device)
    cuts = torch.searchsorted(offsets, cuts).clamp(max=offsets.shape[0] - 1)
    candidates = [0, *cuts.tolist(), offsets.shape[0] - 1]
    starts = [0, *offsets.index_select(0, cuts).tolist(), num_pairs]
    for candidate, pair in zip(pairwise(candidates), pairwise(starts), strict=True):
        yield _Part(slice(*candidate), slice(*pair))


def _steps_of(values: Tensor, step: Tensor | None, pairs: slice) -> Tensor:
    """The step of each pair of a part."""
    return values[pairs] if step is None else values.index_select(0, step[pairs])


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
        ctx.save_for_backward(candidate, values, weight, step, candidate_of_pair, offsets)
        ctx.has_bias = bias is not None
        dim, num_pairs = candidate.shape[1], candidate_of_pair.shape[0]
        of_candidate, of_step, of_product = weight.tensor_split([dim, dim + values.shape[1]], 1)
        by_candidate = functional.linear(candidate, of_candidate, bias)  # (B, H)
        hidden = by_candidate.index_select(0, candidate_of_pair)  # (P, H)
        if step is None:
            hidden.addmm_(values, of_step.t())
        else:
            hidden += (values @ of_step.t()).index_select(0, step)
        for part in _parts(offsets, num_pairs, dim):
            product = candidate.index_select(0, candidate_of_pair[part.pairs])
            product.mul_(_steps_of(values[:, :dim], step, part.pairs))
            hidden[part.pairs].addmm_(product, of_product.t())
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        candidate, values, weight, step, candidate_of_pair, offsets = ctx.saved_tensors
        dim, num_pairs = candidate.shape[1], candidate_of_pair.shape[0]
        splits = [dim, dim + values.shape[1]]
        of_candidate, of_step, of_product = weight.tensor_split(splits, 1)
        gradient = gradient.contiguous()
        by_candidate = sum_segments(gradient, offsets)  # (B, H)
        by_step = gradient  # (N, H)
        if step is not None:
            by_step = gradient.new_zeros(values.shape[0], gradient.shape[1])
            by_step.index_add_(0, step, gradient)
        d_candidate = by_candidate @ of_candidate  # (B, D)
        d_values = by_step @ of_step  # (N, S)
        d_product_weight = torch.zeros_like(of_product)  # (H, D)
        for part in _parts(offsets, num_pairs, dim):
            of_part = gradient[part.pairs]
            shared = _steps_of(values[:, :dim], step, part.pairs)
            product = candidate.index_select(0, candidate_of_pair[part.pairs])
            d_product = of_part @ of_product
            if step is None:
                d_values[part.pairs, :dim].addcmul_(product, d_product)
            else:
                d_values[:, :dim].index_add_(0, step[part.pairs], product * d_product)
            d_product_weight.addmm_(of_part.t(), product.mul_(shared))
            first = part.pairs.start
            ends = offsets[part.candidates.start : part.candidates.stop + 1] - first
            d_candidate[part.candidates] += sum_segments(d_product.mul_(shared), ends)
        d_weight = torch.cat(
            [by_candidate.t() @ candidate, by_step.t() @ values, d_product_weight], dim=1
        )
        d_bias = by_candidate.sum(dim=0) if ctx.has_bias else None
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
        ctx.save_for_backward(weights, values, step, candidate_of_pair, offsets)
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
        weights, values, step, candidate_of_pair, offsets = ctx.saved_tensors
        d_weights, d_values = torch.empty_like(weights), torch.zeros_like(values)
        for part in _parts(offsets, weights.shape[0], values.shape[1]):
            of_part = gradient.index_select(0, candidate_of_pair[part.pairs])
            steps = _steps_of(values, step, part.pairs)
            d_weights[part.pairs] = torch.linalg.vecdot(of_part, steps)
            of_part.mul_(weights[part.pairs].unsqueeze(1))
            if step is None:
                d_values[part.pairs] = of_part
            else:
                d_values.index_add_(0, step[part.pairs], of_part)
        return d_weights, d_values, None, None, None
