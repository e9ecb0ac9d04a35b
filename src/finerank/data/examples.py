"""Requests with their candidates and histories, from which any batch is a few gathers.

Shapes: ``R`` requests, ``B`` candidates, ``T`` tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import torch

from finerank.data.batch import Batch, Column, Jagged, Steps
from finerank.data.columns import take_columns
from finerank.nn.jagged import expand_ranges, row_of_value, value_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from finerank.data.entities import Entities
    from finerank.data.events import EventStore
    from finerank.data.list_store import ListStore
    from finerank.data.schema import Feature, Schema

# What a batch has of everything whose number depends on its requests: of ("candidates",), of a
# history's ("steps", history) and ("pairs", history), and of the values of jagged features:
# ("request", feature), ("candidate", feature), ("steps", history, feature).
Sizes: TypeAlias = "Mapping[tuple[str, ...], int]"


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

    def batch(
        self,
        requests: Tensor,
        sizes: Sizes = MappingProxyType({}),
        count: Tensor | None = None,
    ) -> Batch:
        """The batch of the given requests, with all their candidates, in that order.

        Args:
            requests: their rows ``(R,)``, int64.
            sizes: where the columns are on a device, or it would be waited for.
            count: how many of the requests count, fewer than all, a 0-dimensional tensor; then the
                batch is filled up to the sizes, see `finerank.nn.filled`. At least one of all that
                has a size has to count.
        """
        starts = self.first_candidate.index_select(0, requests)
        counts = self.first_candidate.index_select(0, requests + 1) - starts
        size = sizes.get(("candidates",))
        candidates, offsets = expand_ranges(starts, counts, size=size, count=count)
        of_candidates = None if count is None else value_at(offsets, count)
        user = self.user.index_select(0, requests)
        item = None if self.item is None else self.item.index_select(0, candidates)
        schema = self.schema
        return Batch(
            request=self._columns(
                schema.request_features, self.request, requests, user, sizes, ("request",), count
            ),
            candidate=self._columns(
                schema.candidate_features,
                self.candidate,
                candidates,
                item,
                sizes,
                ("candidate",),
                of_candidates,
            ),
            histories={
                each.name: self._steps(each.name, requests, sizes, count)
                for each in schema.histories
            },
            request_of_candidate=row_of_value(offsets, len(candidates)),
            labels=self._labels_of(candidates, of_candidates),
            user=user,
            count=of_candidates,
        )

    def _labels_of(self, candidates: Tensor, count: Tensor | None) -> Tensor | None:
        """``(B, T)``; those that don't count are missing."""
        if self.labels is None:
            return None
        labels = torch.stack([label.index_select(0, candidates) for label in self.labels], dim=1)
        if count is None:
            return labels
        order = torch.arange(len(candidates), device=candidates.device)
        return labels.masked_fill((order >= count).unsqueeze(1), torch.nan)

    def by_steps(self, requests: Tensor) -> Tensor:
        """The given requests ``(R,)`` from the shortest history to the longest.

        Where there are several histories, by the first.
        """
        if not self.schema.histories:
            return requests
        start, end = self.windows[self.schema.histories[0].name]
        steps = end.index_select(0, requests) - start.index_select(0, requests)
        return requests[steps.argsort(stable=True)]

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

    def map(self, change: Callable[[Tensor], Tensor]) -> Examples:
        """The same examples, with each tensor that batches are made of changed."""

        def changed(columns: Mapping[str, Column]) -> dict[str, Column]:
            return {
                name: Jagged(*map(change, column)) if isinstance(column, Jagged) else change(column)
                for name, column in columns.items()
            }

        def of_entities(entities: Entities | None) -> Entities | None:
            return entities and replace(entities, features=changed(entities.features))

        return replace(
            self,
            users=of_entities(self.users),
            items=of_entities(self.items),
            stores={
                name: replace(
                    store,
                    item=None if store.item is None else change(store.item),
                    columns=changed(store.columns),
                )
                for name, store in self.stores.items()
            },
            user=change(self.user),
            request=changed(self.request),
            windows={name: (change(s), change(e)) for name, (s, e) in self.windows.items()},
            first_candidate=change(self.first_candidate),
            item=None if self.item is None else change(self.item),
            candidate=changed(self.candidate),
            labels=None if self.labels is None else [change(each) for each in self.labels],
        )

    def source(self, feature: Feature, own: Mapping[str, Column]) -> tuple[Column, bool]:
        """Where a feature is held, and whether that is a table of users or of items.

        Args:
            own: what the rows that have the feature hold themselves.
        """
        if feature.name in own:
            return own[feature.name], False
        entities = self.users if feature.home == "users" else self.items
        assert entities is not None
        return entities.features[feature.name], True

    def _steps(self, name: str, requests: Tensor, sizes: Sizes, count: Tensor | None) -> Steps:
        history = next(each for each in self.schema.histories if each.name == name)
        store = self.stores[name]
        starts, ends = (bound.index_select(0, requests) for bound in self.windows[name])
        size = sizes.get(("steps", name))
        events, offsets = expand_ranges(starts, ends - starts, size=size, count=count)
        of_steps = None if count is None else value_at(offsets, count)
        item = None if store.item is None else store.item.index_select(0, events)
        features = [self.schema.feature(feature) for feature in history.features]
        columns = self._columns(
            features, store.columns, events, item, sizes, ("steps", name), of_steps
        )
        return Steps(columns, offsets, sizes.get(("pairs", name)))

    def _columns(
        self,
        features: Sequence[Feature],
        own: Mapping[str, Column],
        rows: Tensor,
        entities: Tensor | None,
        sizes: Sizes,
        of: tuple[str, ...],
        count: Tensor | None,
    ) -> dict[str, Column]:
        """Features at the given rows: from their own table, or from that of users or items."""
        sources = {each.name: self.source(each, own) for each in features}
        known = {name: sizes.get((*of, name)) for name in sources}
        found: dict[str, Column] = {}
        for by_entity, places in ((False, rows), (True, entities)):
            columns = {name: column for name, (column, by) in sources.items() if by == by_entity}
            if columns:
                assert places is not None
                found |= take_columns(columns, places, known, count)
        return {name: found[name] for name in sources}


def _from(column: Column, first: int) -> Column:
    """A column from a given row on."""
    if isinstance(column, Jagged):
        return Jagged(column.values, column.offsets[first:])
    return column[first:]
