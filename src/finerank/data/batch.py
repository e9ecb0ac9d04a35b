"""A batch: requests, their histories, their candidates.

Shapes: ``R`` requests, ``B`` candidates, ``N`` steps of a history over all requests, ``T`` tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch

from finerank.nn.jagged import expand_ranges

if TYPE_CHECKING:
    from torch import Tensor


class Jagged(NamedTuple):
    """Rows of different lengths: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    values: Tensor
    offsets: Tensor


Column: TypeAlias = "Tensor | Jagged"


class Steps(NamedTuple):
    """The steps of one history for every request, one after another, oldest first.

    Attributes:
        columns: feature -> ``(N,)``, ``(N, width)``, or jagged with ``N`` rows.
        offsets: ``(R + 1,)``.
        num_pairs: how many pairs there are of a candidate and a step of its request, where a
            device would have to be asked.
    """

    columns: dict[str, Column]
    offsets: Tensor
    num_pairs: int | None = None


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
        count: how many of the candidates count, where others fill the batch up to a size that
            comes again (see `finerank.nn.filled`); None: all of them.
    """

    request: dict[str, Column]
    candidate: dict[str, Column]
    histories: dict[str, Steps]
    request_of_candidate: Tensor
    labels: Tensor | None
    user: Tensor
    count: Tensor | None = None

    @property
    def num_candidates(self) -> int:
        """How many candidates, with those that fill it up."""
        return len(self.request_of_candidate)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; the host does not wait until it is there."""
        return Batch(
            request=_moved(self.request, device),
            candidate=_moved(self.candidate, device),
            histories={
                name: steps._replace(
                    columns=_moved(steps.columns, device), offsets=sent(steps.offsets, device)
                )
                for name, steps in self.histories.items()
            },
            request_of_candidate=sent(self.request_of_candidate, device),
            labels=None if self.labels is None else sent(self.labels, device),
            user=sent(self.user, device),
        )


def _moved(columns: dict[str, Column], device: torch.device | str) -> dict[str, Column]:
    return {
        name: Jagged(sent(column.values, device), sent(column.offsets, device))
        if isinstance(column, Jagged)
        else sent(column, device)
        for name, column in columns.items()
    }


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A copy on a device that is under way; from pinned memory, or the host would wait for it."""
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def take(
    column: Column, rows: Tensor, *, size: int | None = None, count: Tensor | None = None
) -> Column:
    """The given rows of a column, in that order.

    Args:
        rows: which ``(R,)``.
        size: how many values they have together, of a jagged column, where it is known.
        count: how many of the rows count, as in `finerank.nn.jagged.expand_ranges`.
    """
    if not isinstance(column, Jagged):
        return column.index_select(0, rows)
    starts = column.offsets.index_select(0, rows)
    lengths = column.offsets.index_select(0, rows + 1) - starts
    indices, offsets = expand_ranges(starts, lengths, size=size, count=count)
    return Jagged(column.values.index_select(0, indices), offsets)
