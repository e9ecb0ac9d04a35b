"""Arithmetic on jagged tensors: rows of different lengths, stored end to end without padding.

Shape letters: ``N`` values, ``R`` rows (requests), ``B`` candidates, ``P`` pairs of a candidate
and a step of its request's history, ``D`` width. Row ``r`` of ``values`` ``(N, ...)`` is
``values[offsets[r]:offsets[r + 1]]``, with ``offsets`` ``(R + 1,)`` from 0 to ``N``.
"""

import torch
from torch import Tensor
from torch.nn import functional


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


def expand_ranges(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ranges ``starts[i] .. starts[i] + lengths[i] - 1`` end to end, and their offsets.

    The size of the result depends on the lengths, so on a GPU this waits for the device once.

    >>> positions, offsets = expand_ranges(torch.tensor([5, 0, 2]), torch.tensor([2, 0, 3]))
    >>> positions.tolist(), offsets.tolist()
    ([5, 6, 2, 3, 4], [0, 2, 2, 5])
    """
    offsets = functional.pad(lengths.cumsum(0), (1, 0))
    shift = torch.repeat_interleave(starts - offsets[:-1], lengths)
    return torch.arange(shift.shape[0], device=shift.device) + shift, offsets


def pair_steps(offsets: Tensor, request_of_candidate: Tensor) -> tuple[Tensor, Tensor]:
    """Pair each candidate with each step of its request's history, in the history's order.

    Args:
        offsets: Where the histories begin and end ``(R + 1,)``.
        request_of_candidate: The request of each candidate ``(B,)``, in any order.

    Returns:
        The history step of each pair ``(P,)`` and where each candidate's pairs begin and end
        ``(B + 1,)``, both int64.
    """
    starts = offsets[:-1].index_select(0, request_of_candidate)
    lengths = lengths_of(offsets).index_select(0, request_of_candidate)
    return expand_ranges(starts, lengths)


def segment_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """Return the sum of each row's values ``(R, ...)``; zeros where a row is empty."""
    # Forward and backward, float32, N=20000, D=32, R=1024, 2 CPU threads: index_add 0.5 ms,
    # segment_reduce 1.3 ms, embedding_bag 1.4 ms.
    rows = row_of_value(offsets, values.shape[0])
    sums = values.new_zeros((offsets.shape[0] - 1, *values.shape[1:]))
    return sums.index_add(0, rows, values)


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
