"""Batches of a set of examples, shuffled or in order, made ahead of time in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import torch

from finerank.data.ahead import made_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor


_BLOCK = 1024  # requests that lie side by side on disk and are read together
_BLOCKS_AT_A_TIME = 1024  # that are mixed with each other
_BATCHES_AT_A_TIME = 8  # that are cut, for what it takes shall stay small beside the order itself


Made = TypeVar("Made")
Made_co = TypeVar("Made_co", covariant=True)


class Requested(Protocol[Made_co]):
    """What batches are made of by their requests, as `finerank.data.examples.Examples`."""

    @property
    def num_requests(self) -> int:
        """How many requests."""

    @property
    def num_candidates(self) -> int:
        """How many candidates, over all requests."""

    @property
    def first_candidate(self) -> Tensor:
        """Where each request's candidates begin, and the end ``(R + 1,)``."""

    @property
    def by_steps(self) -> Callable[[Tensor], Tensor]:
        """Puts requests from the shortest history to the longest."""

    def batch(self, requests: Tensor, /) -> Made_co:
        """The batch of some requests ``(R,)``."""


class Loader(Generic[Made]):
    """Whole requests, cut into batches of about ``batch_size`` candidates.

    Each pass over a shuffled loader has an order of its own, drawn from the seed. A set of up to a
    million requests is shuffled as a whole. A larger one is shuffled block by block, so that what
    is read from disk lies together: blocks of 1,024 requests in random order, then the requests of
    1,024 blocks at a time.

    Args:
        batch_size: candidates; a request is never divided, so a batch ends with the request that
            reaches this size.
        shuffle: whether to draw the requests in random order; then those of a batch are put from
            the shortest history to the longest, for full ones that lie together are worked on
            faster.
        then: what is done to each batch.
    """

    def __init__(
        self,
        examples: Requested[Made],
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        then: Callable[[Made], Made] | None = None,
    ) -> None:
        self.examples, self.batch_size, self.shuffle, self.then = (
            examples,
            batch_size,
            shuffle,
            then,
        )
        self._random = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Made]:
        if self.examples.num_candidates <= self.batch_size:  # one batch: none to make ahead
            return self._batches()
        return made_ahead(self._batches())

    def _batches(self) -> Iterator[Made]:
        for requests in self._cut(self._orders()):
            batch = self.examples.batch(
                self.examples.by_steps(requests) if self.shuffle else requests
            )
            yield batch if self.then is None else self.then(batch)

    def _orders(self) -> Iterator[Tensor]:
        """The requests ``(R,)`` in the order of this pass, a part at a time."""
        count = self.examples.num_requests
        part = _BLOCK * _BLOCKS_AT_A_TIME
        if not self.shuffle or count <= part:
            for start in range(0, count, part):
                size = min(part, count - start)
                yield self._shuffled(size) if self.shuffle else torch.arange(start, start + size)
            return
        starts = torch.arange(0, count, _BLOCK)
        for blocks in starts[self._shuffled(len(starts))].split(_BLOCKS_AT_A_TIME):
            requests = (blocks.unsqueeze(1) + torch.arange(_BLOCK)).flatten()
            requests = requests[requests < count]
            yield requests[self._shuffled(len(requests))]

    def _shuffled(self, size: int) -> Tensor:
        # an order is held while its batches are made: in numbers of half the length
        return torch.randperm(size, generator=self._random, dtype=torch.int32)

    def _cut(self, orders: Iterable[Tensor]) -> Iterator[Tensor]:
        """The requests of each batch."""
        first, begun = self.examples.first_candidate, torch.empty(0, dtype=torch.int64)
        for order in orders:
            start = 0  # candidates of this order before those of `begun`
            for part in order.split(_BATCHES_AT_A_TIME * self.batch_size):
                requests = torch.cat([begun, part])
                sizes = first.index_select(0, requests + 1) - first.index_select(0, requests)
                starts = start + sizes.cumsum(0) - sizes
                batches = starts // self.batch_size
                _, counts = batches.unique_consecutive(return_counts=True)
                *full, begun = requests.split(counts.tolist())
                start = int(starts[-len(begun)])
                yield from full
        if len(begun):
            yield begun
