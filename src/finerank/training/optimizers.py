"""What updates a model's weights: one optimiser for its embedding tables, one for all others."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from finerank.models.inputs import joined_tables
from finerank.training.adam import Adam
from finerank.training.row_optimizers import LazyAdam, RowOptimizer, RowwiseAdagrad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from finerank.nn.tables import EmbeddingTables
    from finerank.settings import TrainingSettings

_OF_ROWS: dict[str, type[RowOptimizer]] = {
    "lazy_adam": LazyAdam,
    "rowwise_adagrad": RowwiseAdagrad,
}


class Optimizers:
    """Adam over the dense weights; over the embedding tables what the settings say.

    Args:
        model: its tables must be sparse while it is trained, see `sparse_tables`.
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
        if settings.table_optimizer in _OF_ROWS:
            kind = _OF_ROWS[settings.table_optimizer]
            self._of_rows = kind(self._tables, learning_rate=rate)
        else:
            weights = [tables.weight for tables in self._tables]
            decay = settings.embedding_weight_decay
            self._adams.append(Adam(weights, learning_rate=rate, weight_decay=decay))

    @property
    def learning_rate(self) -> float:
        """That of all weights."""
        return self._adams[0].learning_rate

    def slow_down(self, factor: float) -> None:
        """Multiply the learning rate."""
        for adam in self._adams:
            adam.learning_rate *= factor
        if self._of_rows is not None:
            self._of_rows.learning_rate *= factor

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for adam in self._adams:
            adam.zero_grad()

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


@contextmanager
def sparse_tables(model: nn.Module) -> Iterator[None]:
    """Give a gradient to those rows of a model's embedding tables only that a batch uses."""
    tables = [each for _, each in joined_tables(model)]
    try:
        for each in tables:
            each.sparse = True
        yield
    finally:
        for each in tables:
            each.sparse, each.in_use, each.weight.grad = False, None, None
