"""Requests with their candidates and histories, from which any batch is a few gathers.

Shapes: ``R`` requests, ``B`` candidates, ``T`` tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from finerank.data.batch import Batch, Column, Jagged, Steps, take
from finerank.nn.jagged import expand_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from finerank.data.entities import Entities
    from finerank.data.events import EventStore
    from finerank.data.lists import ListStore
    from finerank.data.schema import Feature, Schema


@dataclass(frozen=True)
class Examples:
    """A set of requests and their candidates.

    Attributes:
        users: None where the log names no users; items likewise.
        stores: the events behind each history, or its steps where its lists are ready-made.
        user: row of each request's user ``(R,)``, 0 where unknown.
        request: the request's features that its own row holds.
        windows: history -> first event and end ``(R,)`` each.
        first_candidate: candidates of request ``r`` are ``first_candidate[r]`` up to
            ``first_candidate[r + 1]``, ``(R + 1,)``.
        item: row of each candidate's item ``(B,)``, or None.
        candidate: the candidate's features that its own row holds.
        labels: one column ``(B,)`` a task; None where there are none.
    """

    schema: Schema
    users: Entities | None
    items: Entities | None
    stores: Mapping[str, EventStore | ListStore]
    user: Tensor
    request: dict[str, Column]
    windows: dict[str, tuple[Tensor, Tensor]]
    first_candidate: Tensor
    item: Tensor | None
    candidate: dict[str, Column]
    labels: list[Tensor] | None

    @property
    def num_requests(self) -> int:
        """How many requests."""
        return len(self.first_candidate) - 1

    @property
    def num_candidates(self) -> int:
        """How many candidates, over all requests."""
        return int(self.first_candidate[-1])

    def batch(self, requests: Tensor) -> Batch:
        """The batch of the given requests, with all their candidates, in that order.

        Args:
            requests: their rows ``(R,)``, int64.
        """
        starts = self.first_candidate.index_select(0, requests)
        counts = self.first_candidate.index_select(0, requests + 1) - starts
        candidates, _ = expand_ranges(starts, counts)
        order = torch.arange(len(requests), device=requests.device)
        user = self.user.index_select(0, requests)
        item = None if self.item is None else self.item.index_select(0, candidates)
        schema = self.schema
        return Batch(
            request={
                feature.name: self._column(feature, self.request, requests, user)
                for feature in schema.request_features
            },
            candidate={
                feature.name: self._column(feature, self.candidate, candidates, item)
                for feature in schema.candidate_features
            },
            histories={each.name: self._steps(each.name, requests) for each in schema.histories},
            request_of_candidate=order.repeat_interleave(counts, output_size=len(candidates)),
            labels=None
            if self.labels is None
            else torch.stack([label.index_select(0, candidates) for label in self.labels], dim=1),
            user=user,
        )

    def since(self, first: int) -> Examples:
        """The requests from a given one on, with their candidates."""
        begin = int(self.first_candidate[first])
        return replace(
            self,
            user=self.user[first:],
            request={name: _from(column, first) for name, column in self.request.items()},
            windows={name: (s[first:], e[first:]) for name, (s, e) in self.windows.items()},
            first_candidate=self.first_candidate[first:] - begin,
            item=None if self.item is None else self.item[begin:],
            candidate={name: _from(column, begin) for name, column in self.candidate.items()},
            labels=None if self.labels is None else [each[begin:] for each in self.labels],
        )

    def _steps(self, name: str, requests: Tensor) -> Steps:
        history = next(each for each in self.schema.histories if each.name == name)
        store = self.stores[name]
        starts, ends = (bound.index_select(0, requests) for bound in self.windows[name])
        events, offsets = expand_ranges(starts, ends - starts)
        item = None if store.item is None else store.item.index_select(0, events)
        columns = {
            feature: self._column(self.schema.feature(feature), store.columns, events, item)
            for feature in history.features
        }
        return Steps(columns, offsets)

    def _column(
        self, feature: Feature, own: dict[str, Column], rows: Tensor, entity: Tensor | None
    ) -> Column:
        """A feature at the given rows: from their own table, or from that of users or items."""
        if feature.name in own:
            return take(own[feature.name], rows)
        entities = self.users if feature.home == "users" else self.items
        assert entities is not None
        assert entity is not None
        return take(entities.features[feature.name], entity)


def _from(column: Column, first: int) -> Column:
    """A column from a given row on."""
    if isinstance(column, Jagged):
        return Jagged(column.values, column.offsets[first:])
    return column[first:]
