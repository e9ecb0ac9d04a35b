"""L2 on embeddings that costs what the batch costs: DIN's mini-batch aware regularisation.

Shapes: ``V`` rows of an embedding table, ``D`` embedding width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from finerank.data.batch import Jagged
from finerank.data.loader import Loader
from finerank.models.inputs import joined_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from finerank.data.batch import Batch, Column
    from finerank.data.placement import PlacedSet
    from finerank.data.schema import Schema

_BATCH_SIZE = 65_536  # candidates counted at a time


class MiniBatchL2:
    r"""L2 on the embeddings of a batch's ids, frequent ids less.

    Adds to the gradient of the embedding :math:`w_j` of each id of the batch

    .. math:: \frac{\lambda}{n_j} w_j

    and nothing to the rows of all other ids, whose tables are not even read. :math:`n_j` is the
    number of times that id ``j`` is an input in the training set: as a feature of a candidate, of
    its request, or of a step of its history.

    Args:
        model: its embedding tables are regularised; they must be sparse, see `EmbeddingTables`.
        examples: the training set.
        strength: :math:`\lambda`, at least 0.

    Source:
        Zhou et al., Deep Interest Network, KDD 2018, arXiv:1706.06978, section 5.1.
    """

    def __init__(self, model: nn.Module, examples: PlacedSet, *, strength: float) -> None:
        counts = count_ids(examples)
        strengths = {space: strength / n.clamp(min=1).float() for space, n in counts.items()}
        self.tables = [
            (tables, torch.cat([strengths[space] for space in spaces]).to(tables.weight.device))
            for spaces, tables in joined_tables(model)
            if spaces
        ]  # strengths (V,)

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add the gradient of the term to the gradients of the tables' rows in use."""
        for tables, strengths in self.tables:
            assert tables.in_use is not None
            rows, vectors, _ = tables.in_use
            assert vectors.grad is not None
            strength = strengths.index_select(0, rows).to(vectors.dtype)
            vectors.grad.addcmul_(vectors, strength.unsqueeze(1))


def count_ids(examples: PlacedSet) -> dict[str, Tensor]:
    """How often each id is an input: id space -> ``(V,)``.

    What a request shares among its candidates counts once for each of them.
    """
    sizes = {f.space: f.size for f in examples.schema.features if f.space is not None}
    counts = {space: torch.zeros(size, dtype=torch.float64) for space, size in sizes.items()}
    for batch in Loader(examples, batch_size=_BATCH_SIZE):
        for space, ids, times in _inputs_of(examples.schema, batch):
            counts[space] += ids.bincount(times, minlength=sizes[space])
    return counts


def _inputs_of(schema: Schema, batch: Batch) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each feature's id space, the ids in a batch, and of how many candidates each is an input."""
    candidates = batch.request_of_candidate.bincount(minlength=len(batch.user))
    columns: list[tuple[str, Column, Tensor]] = [
        *((f.name, batch.request[f.name], candidates) for f in schema.request_features),
        *(
            (f.name, batch.candidate[f.name], torch.ones_like(batch.request_of_candidate))
            for f in schema.candidate_features
        ),
    ]
    for steps in batch.histories.values():
        times = candidates.repeat_interleave(steps.offsets.diff())
        columns += [(name, column, times) for name, column in steps.columns.items()]
    for name, column, times in columns:
        space = schema.feature(name).space
        if space is None:
            continue
        if isinstance(column, Jagged):
            yield space, column.values, times.repeat_interleave(column.offsets.diff())
        else:
            yield space, column, times
