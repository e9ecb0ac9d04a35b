"""Arithmetic on jagged tensors: rows of different lengths, stored end to end without padding.

Shape letters: ``N`` values, ``R`` rows (requests), ``B`` candidates, ``P`` pairs of a candidate
and a step of its request's history, ``D`` width. Row ``r`` of ``values`` ``(N, ...)`` is
``values[offsets[r]:offsets[r + 1]]``, with ``offsets`` ``(R + 1,)`` from 0 to ``N``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finerank.nn import host


def lengths_of(offsets: Tensor) -> Tensor:
    """Return the number of values in each row ``(R,)``."""
    return offsets.diff()


def row_of_value(offsets: Tensor, num_values: int) -> Tensor:
    """Return the row that each value lies in ``(N,)``.

    Args:
        offsets: Where the rows begin and end ``(R + 1,)``.
        num_values: The last of the offsets, known from a shape, so that no device is waited for.
    """
    lengths = lengths_of(offsets)
    rows = torch.arange(lengths.shape[0], device=offsets.device)
    return torch.repeat_interleave(rows, lengths, output_size=num_values)


def expand_ranges(
    starts: Tensor, lengths: Tensor, *, size: int | None = None, count: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the ranges ``starts[i] .. starts[i] + lengths[i] - 1`` end to end, and their offsets.

    Args:
        starts: Where the ranges begin ``(R,)``.
        lengths: How long they are ``(R,)``.
        size: The sum of the lengths, where it is known; else a device is waited for.
        count: How many of the ranges count, fewer than all, see `finerank.nn.filled`. Then those
            behind them share, evenly, what it takes to give ``size`` positions: the last that
            counts again and again. At least one position has to count.

    >>> positions, offsets = expand_ranges(torch.tensor([5, 0, 2]), torch.tensor([2, 0, 3]))
    >>> positions.tolist(), offsets.tolist()
    ([5, 6, 2, 3, 4], [0, 2, 2, 5])
    """
    if count is not None and size is not None:
        return _filled_ranges(starts, lengths, size, count)
    offsets = functional.pad(lengths.cumsum(0), (1, 0))
    shift = torch.repeat_interleave(starts - offsets[:-1], lengths, output_size=size)
    return torch.arange(shift.shape[0], device=shift.device) + shift, offsets


def value_at(x: Tensor, place: Tensor) -> Tensor:
    """Return the value at a place that only a device knows; both are 0-dimensional."""
    return x.index_select(0, place.view(1)).view(())


def _filled_ranges(
    starts: Tensor, lengths: Tensor, size: int, count: Tensor
) -> tuple[Tensor, Tensor]:
    num_ranges = lengths.shape[0]
    order = torch.arange(num_ranges + 1, device=lengths.device)
    ends = lengths.mul(order[:-1] < count).cumsum(0)
    offsets, total = functional.pad(ends, (1, 0)), ends[-1]
    places = torch.arange(size, device=lengths.device).minimum(total - 1)
    ranges = torch.searchsorted(ends, places, right=True)
    positions = places + (starts - offsets[:-1]).index_select(0, ranges)
    behind = (order - count).clamp_(min=0)  # ranges that fill up, to each offset
    return positions, offsets + (size - total) * behind // (num_ranges - count)


def pair_steps(
    offsets: Tensor,
    request_of_candidate: Tensor,
    *,
    num_pairs: int | None = None,
    count: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pair each candidate with each step of its request's history, in the history's order.

    Args:
        offsets: Where the histories begin and end ``(R + 1,)``.
        request_of_candidate: The request of each candidate ``(B,)``, in any order.
        num_pairs: How many there are ``P``, where it is known; else a device is waited for.
        count: How many candidates count, as in `expand_ranges`.

    Returns:
        The history step of each pair ``(P,)`` and where each candidate's pairs begin and end
        ``(B + 1,)``, both int64.
    """
    starts = offsets[:-1].index_select(0, request_of_candidate)
    lengths = lengths_of(offsets).index_select(0, request_of_candidate)
    return expand_ranges(starts, lengths, size=num_pairs, count=count)


def spread(requests: Tensor, request_of_candidate: Tensor) -> Tensor:
    """Return each candidate's row of its request's ``(B, ...)``, from ``(R, ...)``.

    Nothing is copied where every request has one candidate, in the requests' order.
    """
    if is_one_each(request_of_candidate, requests.shape[0]):
        return requests
    return requests.index_select(0, request_of_candidate)


def is_one_each(request_of_candidate: Tensor, num_requests: int) -> bool:
    """Whether candidate ``i`` is the only one of request ``i``; on a GPU nobody waits to know."""
    if not host.is_readable(request_of_candidate) or len(request_of_candidate) != num_requests:
        return False
    return torch.equal(request_of_candidate, torch.arange(num_requests))


def segment_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """Return the sum of each row's values ``(R, ...)``; zeros where a row is empty."""
    flat = values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)
    sums: Tensor = _SegmentSum.apply(flat, offsets)  # type: ignore[no-untyped-call]
    return sums.view(offsets.shape[0] - 1, *values.shape[1:])


def sum_segments(values: Tensor, offsets: Tensor) -> Tensor:
    """Return the sum of each row's values ``(R, D)``, from ``(N, D)``, without a gradient."""
    # Forward, float32, N=6400, D=80, R=1024, 1 CPU thread: embedding_bag 0.05 ms, index_add
    # 0.24 ms, segment_reduce 1.4 ms. The gradient of embedding_bag is slow, so it is left out.
    places = torch.arange(values.shape[0], device=values.device)
    return functional.embedding_bag(places, values, offsets, mode="sum", include_last_offset=True)


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, offsets: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(offsets)
        ctx.num_values = values.shape[0]
        return sum_segments(values, offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (offsets,) = ctx.saved_tensors
        return gradient.index_select(0, row_of_value(offsets, ctx.num_values)), None


def segment_softmax(logits: Tensor, offsets: Tensor) -> Tensor:
    """Return the softmax of the logits ``(P,)`` within each row.

    The row's largest logit is taken off first, so that no exponential overflows.
    """
    rows = row_of_value(offsets, logits.shape[0])
    largest = logits.new_zeros(offsets.shape[0] - 1).scatter_reduce(
        0, rows, logits.detach(), "amax", include_self=False
    )
    exponentials = torch.exp(logits - largest.index_select(0, rows))
    return exponentials / segment_sum(exponentials, offsets).index_select(0, rows)
