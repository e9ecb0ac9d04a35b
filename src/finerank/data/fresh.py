"""A training set whose sampled negatives are drawn anew each time a batch is made.

Shapes: ``R`` requests of a batch, ``B`` its stored candidates, ``L`` those with the negatives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from finerank.data.batch import take
from finerank.data.sampling import behind
from finerank.nn.jagged import expand_ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from finerank.data.batch import Batch
    from finerank.data.examples import Examples
    from finerank.data.sampling import NegativeSampler
    from finerank.data.schema import Schema


class FreshNegatives:
    """Examples, and behind each positive its negatives, others in every pass.

    A positive has a label of 1. A negative is its positive with another item; its labels are 0
    where those of its positive are known.

    Args:
        examples: as they are stored, without sampled negatives.
        sampler: draws them.
        per_positive: how many for each.
        times: of each request; None where the log has none.
        item_ids: the features that are the item's id, encoded, one row an item.
        seed: of all draws.

    Attributes:
        first_candidate: as in `Examples`, for the candidates with their negatives. Where a user
            has met nearly every item, a batch may hold fewer.
    """

    def __init__(
        self,
        examples: Examples,
        sampler: NegativeSampler,
        *,
        per_positive: int,
        times: Tensor | None,
        item_ids: dict[str, np.ndarray],
        seed: Sequence[int],
    ) -> None:
        self.examples, self.sampler, self.per_positive = examples, sampler, per_positive
        self.times, self.random = times, np.random.default_rng(seed)
        self.item_ids = {name: torch.from_numpy(ids) for name, ids in item_ids.items()}
        assert examples.labels is not None
        before = torch.zeros(examples.num_candidates + 1, dtype=torch.int64)
        torch.cumsum(_positive(examples.labels), dim=0, out=before[1:])
        first = examples.first_candidate
        self.first_candidate = first + per_positive * before.index_select(0, first)

    @property
    def schema(self) -> Schema:
        """That of the examples."""
        return self.examples.schema

    @property
    def num_requests(self) -> int:
        """How many requests."""
        return self.examples.num_requests

    @property
    def num_candidates(self) -> int:
        """How many candidates, over all requests, with their negatives."""
        return int(self.first_candidate[-1])

    def by_steps(self, requests: Tensor) -> Tensor:
        """The given requests ``(R,)`` from the shortest history to the longest."""
        return self.examples.by_steps(requests)

    def batch(self, requests: Tensor) -> Batch:
        """The batch of the given requests, with all their candidates and negatives drawn now.

        Args:
            requests: their rows ``(R,)``, int64.
        """
        stored = self.examples
        assert stored.item is not None
        assert stored.labels is not None
        starts = stored.first_candidate.index_select(0, requests)
        counts = stored.first_candidate.index_select(0, requests + 1) - starts
        candidates, _ = expand_ranges(starts, counts)  # (B,)
        request = torch.arange(len(requests)).repeat_interleave(counts)  # (B,)
        user = stored.user.index_select(0, requests)
        item = stored.item.index_select(0, candidates)
        labels = [label.index_select(0, candidates) for label in stored.labels]
        positives = _positive(labels).nonzero().squeeze(1)
        positive_request = request[positives]
        times = None if self.times is None else self.times[requests][positive_request].numpy()
        of_positive, drawn = self.sampler.draw(
            user[positive_request].numpy(),
            item[positives].numpy(),
            times,
            self.per_positive,
            self.random,
        )
        places = behind(positives.numpy(), of_positive, len(candidates))
        source = torch.from_numpy(places.source)  # (L,)
        is_negative = torch.from_numpy(places.is_negative)
        item = item[source]
        item[is_negative] = torch.from_numpy(drawn).to(item.dtype)
        labels = [label[source] for label in labels]
        for label in labels:
            label[is_negative & ~label.isnan()] = 0.0
        sizes = request[source].bincount(minlength=len(requests))
        first = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        made = replace(
            stored,
            user=user,
            request={name: take(column, requests) for name, column in stored.request.items()},
            windows={
                name: (start.index_select(0, requests), end.index_select(0, requests))
                for name, (start, end) in stored.windows.items()
            },
            first_candidate=first,
            item=item,
            candidate={name: ids.index_select(0, item) for name, ids in self.item_ids.items()},
            labels=labels,
        )
        return made.batch(torch.arange(len(requests)))


TrainingSet: TypeAlias = "Examples | FreshNegatives"


def _positive(labels: Sequence[Tensor]) -> Tensor:
    """Which candidates have a label of 1."""
    return torch.stack([label == 1 for label in labels]).any(dim=0)
