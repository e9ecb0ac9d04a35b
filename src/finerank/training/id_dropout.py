"""Ids taken for unknown at random in training, so that the unknown rows of the tables learn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from finerank.data.batch import Jagged
from finerank.data.schema import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finerank.data.batch import Batch, Column
    from finerank.data.schema import Schema


class IdDropout:
    """Replaces each id of a batch by the unknown one with a fixed probability.

    Every value of every feature by itself: of a candidate, of its request, of a step.

    Args:
        schema: which features are ids.
        share: the probability, from 0 up to but not 1.
        seed: of the draws.
        device: where the batches are.

    Attributes:
        generator: of the draws.
    """

    def __init__(
        self, schema: Schema, share: float, *, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.schema, self.share = schema, share
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with some ids unknown; the given one stays as it is."""
        return replace(
            batch,
            request=self._dropped(batch.request),
            candidate=self._dropped(batch.candidate),
            histories={
                name: steps._replace(columns=self._dropped(steps.columns))
                for name, steps in batch.histories.items()
            },
        )

    def _dropped(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        dropped: dict[str, Column] = {}
        for name, column in columns.items():
            if self.schema.feature(name).space is None:
                dropped[name] = column
            elif isinstance(column, Jagged):
                dropped[name] = Jagged(self._unknown(column.values), column.offsets)
            else:
                dropped[name] = self._unknown(column)
        return dropped

    def _unknown(self, ids: torch.Tensor) -> torch.Tensor:
        drop = torch.rand(ids.shape, generator=self.generator, device=ids.device) < self.share
        return ids.masked_fill(drop, UNKNOWN)
