"""Which rows count, where others fill a batch up to a size that comes again.

A device can replay what it was told once, if no size has changed since. So batches are filled up
with rows whose labels are missing: they come last, add nothing to a loss, and no gradient leaves
them. What looks at all rows at once, as a batch's statistics do, asks here how many count.

Shape letters: ``B`` rows, of candidates or of pairs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_counts: list[Tensor | None] = [None]


@contextmanager
def counting(count: Tensor | None) -> Iterator[None]:
    """Let so many of the rows count within, a 0-dimensional tensor; None: all of them."""
    _counts.append(count)
    try:
        yield
    finally:
        _counts.pop()


def rows_that_count() -> Tensor | None:
    """How many count; None: all of them."""
    return _counts[-1]


def mask_of(x: Tensor, count: Tensor) -> Tensor:
    """1 for the rows of ``x`` that count, 0 for the others, in its type ``(B, 1)``."""
    rows = torch.arange(x.shape[0], device=x.device)
    return (rows < count).to(x.dtype).unsqueeze(1)


def mean_and_variance(x: Tensor, mask: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Of each column over the rows that count ``(H,)``; the variance is the biased one."""
    mean = (x * mask).sum(dim=0) / count
    return mean, ((x - mean) * mask).square().sum(dim=0) / count
