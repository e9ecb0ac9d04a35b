"""A batch: requests, their histories, their candidates.

Shapes: ``R`` requests, ``B`` candidates, ``N`` steps of a history over all requests, ``T`` tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from finerank.nn.jagged import expand_ranges

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Jagged(NamedTuple):
    """Rows of different lengths: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    values: Tensor
    offsets: Tensor


Column: TypeAlias = "Tensor | Jagged"


class Steps(NamedTuple):
    """The steps of one history for every request, one after another, oldest first."""

    columns: dict[str, Column]  # feature -> (N,), (N, width), or jagged with N rows
    offsets: Tensor  # (R + 1,)


@dataclass(frozen=True)
class Batch:
    """What a model scores.

    Attributes:
        request: user and context features, one row a request.
        candidate: item features, one row a candidate.
        histories: by name.
        request_of_candidate: ``(B,)``.
        labels: ``(B, T)`` float32, NaN where missing; None where there is nothing to learn from.
        user: ``(R,)``, the row of the user, 0 where unknown; groups candidates in metrics.
    """

    request: dict[str, Column]
    candidate: dict[str, Column]
    histories: dict[str, Steps]
    request_of_candidate: Tensor
    labels: Tensor | None
    user: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(
            request={name: _move(column, device) for name, column in self.request.items()},
            candidate={name: _move(column, device) for name, column in self.candidate.items()},
            histories={
                name: Steps(
                    {key: _move(column, device) for key, column in steps.columns.items()},
                    steps.offsets.to(device),
                )
                for name, steps in self.histories.items()
            },
            request_of_candidate=self.request_of_candidate.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            user=self.user.to(device),
        )


def _move(column: Column, device: torch.device | str) -> Column:
    if isinstance(column, Jagged):
        return Jagged(column.values.to(device), column.offsets.to(device))
    return column.to(device)


def take(column: Column, rows: Tensor) -> Column:
    """The given rows of a column, in that order."""
    if not isinstance(column, Jagged):
        return column.index_select(0, rows)
    starts = column.offsets.index_select(0, rows)
    lengths = column.offsets.index_select(0, rows + 1) - starts
    indices, offsets = expand_ranges(starts, lengths)
    return Jagged(column.values.index_select(0, indices), offsets)
