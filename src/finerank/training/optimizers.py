"""What updates a model's weights: one optimiser for its embedding tables, one for all others."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch

from finerank.models.inputs import joined_tables
from finerank.training.adam import Adam
from finerank.training.row_optimizers import (
    DeferredAdam,
    LazyAdam,
    RowOptimizer,
    RowwiseAdagrad,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from finerank.nn.tables import EmbeddingTables
    from finerank.settings import TrainingSettings

_OF_ROWS: dict[str, type[RowOptimizer]] = {
    "adam": DeferredAdam,
    "lazy_adam": LazyAdam,
    "rowwise_adagrad": RowwiseAdagrad,
}


class Optimizers:
    """Adam over the dense weights; over the embedding tables what the settings say.

    Args:
        model: it is trained within `sparse_tables`.
        weighting: what the tasks' weighting learns, without weight decay.
        settings: learning rate, weight decays, the optimiser of the tables.
    """

    def __init__(self, model: nn.Module, weighting: nn.Module, settings: TrainingSettings) -> None:
        self._tables = [tables for _, tables in joined_tables(model)]
        known = {id(tables.weight) for tables in self._tables}
        rate, dense = settings.learning_rate, [p for p in model.parameters() if id(p) not in known]
        self._adams = [
            Adam(dense, learning_rate=rate, weight_decay=settings.weight_decay),
            Adam(weighting.parameters(), learning_rate=rate),
        ]
        self._of_rows: RowOptimizer | None = None
        decay = settings.embedding_weight_decay
        if decay > 0:  # moves every row in each step
            weights = [tables.weight for tables in self._tables]
            self._adams.append(Adam(weights, learning_rate=rate, weight_decay=decay))
        else:
            kind = _OF_ROWS[settings.embedding_optimizer]
            self._of_rows = kind(self._tables, learning_rate=rate)

    @property
    def learning_rate(self) -> float:
        """That of all weights."""
        return self._adams[0].learning_rate

    def slow_down(self, factor: float) -> None:
        """Multiply the learning rate, outside `sparse_tables`."""
        for adam in self._adams:
            adam.learning_rate *= factor
        if self._of_rows is not None:
            self._of_rows.learning_rate *= factor

    @contextmanager
    def sparse_tables(self) -> Iterator[None]:
        """Give a gradient to those rows only of the embedding tables that a batch uses.

        At the end all rows are what they are after the steps so far.
        """
        try:
            for index, each in enumerate(self._tables):
                each.sparse = True
                if self._of_rows is not None:
                    each.catch_up = partial(self._of_rows.catch_up, index)
            yield
            if self._of_rows is not None:
                self._of_rows.settle()
        finally:
            for each in self._tables:
                each.sparse, each.catch_up, each.in_use, each.weight.grad = False, None, None, None

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for adam in self._adams:
            adam.zero_grad()

    def make_room(self) -> bool:
        """Let one more step fit into what is kept of each; whether that lies elsewhere now.

        `step` does it for itself; before a step that is replayed it is to be called.
        """
        return self._of_rows is not None and self._of_rows.make_room()

    def count_replayed(self) -> None:
        """Count, on the host, a step that a device replayed."""
        if self._of_rows is not None:
            self._of_rows.count_replayed()

    def step(self) -> None:
        """Update all weights by their gradients."""
        if self._of_rows is not None:
            self._of_rows.step()
        else:
            for each in self._tables:
                each.weight.grad = _of_every_row(each)
        for adam in self._adams:
            adam.step()


def _of_every_row(tables: EmbeddingTables) -> Tensor:
    """The gradient of all rows ``(V, D)``, 0 for those not in use."""
    gradient = torch.zeros_like(tables.weight)
    if tables.in_use is not None:
        gradient.index_copy_(0, tables.in_use.rows, tables.in_use.gradient())
    return gradient
