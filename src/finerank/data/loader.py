"""Batches of a set of examples, shuffled or in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from finerank.data.batch import Batch
    from finerank.data.examples import Examples


class Loader:
    """Whole requests, cut into batches of about ``batch_size`` candidates.

    Each pass over a shuffled loader has an order of its own, drawn from the seed.

    Args:
        batch_size: candidates; a request is never divided, so a batch ends with the request that
            reaches this size.
        shuffle: whether to draw the requests in random order.
        then: what is done to each batch.
    """

    def __init__(
        self,
        examples: Examples,
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
        count = self.examples.num_requests
        if self.shuffle:
            order = torch.randperm(count, generator=self._random)
        else:
            order = torch.arange(count)
        sizes = self.examples.first_candidate.diff().index_select(0, order)
        batch_of_request = (sizes.cumsum(0) - sizes) // self.batch_size
        _, requests_per_batch = batch_of_request.unique_consecutive(return_counts=True)
        for requests in order.split(requests_per_batch.tolist()):
            batch = self.examples.batch(requests)
            yield batch if self.then is None else self.then(batch)
