"""Batches of a set of examples, shuffled or in order, made ahead of time in a thread."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from finerank.data.batch import Batch
    from finerank.data.placement import PlacedSet

T = TypeVar("T")

_BLOCK = 1024  # requests that lie side by side on disk and are read together
_BLOCKS_AT_A_TIME = 1024  # that are mixed with each other
_AHEAD = 2  # batches made before they are asked for


class Loader:
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
        examples: PlacedSet,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        then: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self.examples, self.batch_size, self.shuffle, self.then = (
            examples,
            batch_size,
            shuffle,
            then,
        )
        self._random = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Batch]:
        if self.examples.num_candidates <= self.batch_size:  # one batch: none to make ahead
            return self._batches()
        return made_ahead(self._batches())

    def _batches(self) -> Iterator[Batch]:
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
        return torch.randperm(size, generator=self._random)

    def _cut(self, orders: Iterable[Tensor]) -> Iterator[Tensor]:
        """The requests of each batch."""
        first, begun = self.examples.first_candidate, torch.empty(0, dtype=torch.int64)
        for order in orders:
            requests = torch.cat([begun, order])
            sizes = first.index_select(0, requests + 1) - first.index_select(0, requests)
            batch_of_request = (sizes.cumsum(0) - sizes) // self.batch_size
            _, counts = batch_of_request.unique_consecutive(return_counts=True)
            *full, begun = requests.split(counts.tolist())
            yield from full
        if len(begun):
            yield begun


def made_ahead(items: Iterator[T], *, ahead: int = _AHEAD) -> Iterator[T]:
    """The same items, none of them None, made by a thread while those before them are used."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as maker:
        threads = torch.get_num_threads()
        maker.submit(_compute_alone).result()
        torch.set_num_threads(threads)  # for this thread: the setting is the last one's
        ready = deque(maker.submit(next, items, None) for _ in range(ahead))
        while (item := ready.popleft().result()) is not None:
            ready.append(maker.submit(next, items, None))
            yield item


def _compute_alone() -> None:
    """Let torch compute in this thread only, for as long as the thread lives.

    Else it would start a team of threads for it, and with two teams on the same cores those of the
    training step are kept waiting for each other: a DIN's step on two cores takes a quarter longer.
    """
    torch.set_num_threads(1)
    torch.get_num_threads()  # what it finds at its first use in a thread stays
