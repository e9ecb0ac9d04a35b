"""Pairs of a candidate and a step of its request's history, and each candidate's weighted sum.

Shape letters: ``B`` candidates, ``N`` history steps, ``P`` pairs, ``S`` a step's width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finerank.nn.jagged import is_one_each, pair_steps, row_of_value, value_at


class Pairs(NamedTuple):
    """Which candidate and which step each pair is of; a candidate's pairs lie together.

    Attributes:
        step: ``(P,)``; None where the pairs are the steps, every request having one candidate.
        candidate: ``(P,)``, ascending.
        offsets: where each candidate's pairs begin and end ``(B + 1,)``.
        that_count: how many of the pairs count, see `finerank.nn.filled`; None: all of them.
    """

    step: Tensor | None
    candidate: Tensor
    offsets: Tensor
    that_count: Tensor | None = None


def pairs_of(
    offsets: Tensor,
    request_of_candidate: Tensor,
    *,
    num_pairs: int | None = None,
    count: Tensor | None = None,
) -> Pairs:
    """Pair each candidate with each step of its request's history, in the history's order.

    Args:
        offsets: Where the histories begin and end ``(R + 1,)``.
        request_of_candidate: The request of each candidate ``(B,)``, in any order.
        num_pairs: How many there are ``P``, where it is known; else a device is waited for.
        count: How many candidates count; None: all of them.
    """
    if is_one_each(request_of_candidate, offsets.shape[0] - 1):
        return Pairs(None, row_of_value(offsets, int(offsets[-1])), offsets)
    step, pair_offsets = pair_steps(offsets, request_of_candidate, num_pairs=num_pairs, count=count)
    that_count = None if count is None else value_at(pair_offsets, count)
    return Pairs(step, row_of_value(pair_offsets, step.shape[0]), pair_offsets, that_count)


def weighted_steps(weights: Tensor, values: Tensor, pairs: Pairs) -> Tensor:
    """Return each candidate's sum of its steps, weighted ``(B, S)``.

    Args:
        weights: Of each pair ``(P,)``.
        values: Steps ``(N, S)``.
        pairs: Of the candidates and the steps.
    """
    sums: Tensor = _WeightedSteps.apply(  # type: ignore[no-untyped-call]
        weights, values, pairs.step, pairs.candidate, pairs.offsets
    )
    return sums


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
        num_pairs = weights.shape[0]
        places = torch.arange(num_pairs + 1, device=values.device)
        d_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward(  # noqa: SLF001
            gradient, values, places[:-1] if step is None else step, offsets, candidate_of_pair, 0
        )
        d_values = functional.embedding_bag(  # of one each: its weight times a row of the gradient
            candidate_of_pair,
            gradient,
            places,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )
        if step is not None:
            d_values = torch.zeros_like(values).index_add_(0, step, d_values)
        return d_weights, d_values, None, None, None
