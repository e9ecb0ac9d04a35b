"""From a batch's columns to vectors: embeddings, numbers, pretrained vectors.

Shapes: ``R`` requests, ``B`` candidates, ``N`` steps of a history, ``D`` embedding width, ``S``
width of a step, ``W`` width of all features of a side.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from finerank.data.batch import Batch, Column, Jagged
from finerank.data.schema import Feature, Schema

_INITIAL_STD = 0.1  # of an embedding's components


class Fields(NamedTuple):
    """A batch as vectors.

    Attributes:
        request: user and context ``(R, W)``.
        candidate: ``(B, W)``.
        steps: history -> ``(N, S)``; first what a step shares with the candidate, in the order of
            ``targets``, then what only a past event has.
        targets: history -> the candidate's side of what its steps share ``(B, D)``.
    """

    request: Tensor
    candidate: Tensor
    steps: dict[str, Tensor]
    targets: dict[str, Tensor]


class Inputs(nn.Module):
    """Embed every feature of a batch.

    One embedding table an id space, so that a candidate and the steps of a history share theirs by
    declaration. Several ids are averaged. A number is two inputs: its standardised value, 0 where
    missing, and whether it is missing. A pretrained vector is projected.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: int,
        numbers: Literal["plain", "embedded"] = "plain",
    ) -> None:
        """Build the tables.

        Args:
            schema: The features and histories.
            embedding_dim: The width ``D`` of every embedding and projection.
            numbers: Whether a number's two inputs stay as they are, or each is multiplied by an
                embedding of its own, so that every feature is as wide (factorization machines).
        """
        super().__init__()
        self.schema, self.embedding_dim = schema, embedding_dim
        projected = ("vector",) if numbers == "plain" else ("vector", "number")
        sizes = {f.space: f.size for f in schema.features if f.space is not None}
        self.tables = nn.ParameterDict(
            {
                _key(space): nn.init.normal_(torch.empty(size, embedding_dim), std=_INITIAL_STD)
                for space, size in sizes.items()
            }
        )
        self.projections = nn.ModuleDict(
            {
                _key(f.name): nn.Linear(_raw_width(f), embedding_dim, bias=False)
                for f in schema.features
                if f.type in projected
            }
        )
        self._like: Tensor  # of the model's dtype and device, where no feature has weights
        self.register_buffer("_like", torch.empty(0), persistent=False)
        self.request_dim = sum(map(self.width, schema.request_features))
        self.candidate_dim = sum(map(self.width, schema.candidate_features))

    def width(self, feature: Feature) -> int:
        """The width of one feature as a vector."""
        if feature.space is None and _key(feature.name) not in self.projections:
            return _raw_width(feature)
        return self.embedding_dim

    def target_dim(self, history: str) -> int:
        """The width of what a step of a history shares with the candidate."""
        return sum(self.width(f) for f in self._step_features(history) if f.side == "item")

    def step_dim(self, history: str) -> int:
        """The width of a step of a history."""
        return sum(map(self.width, self._step_features(history)))

    def _step_features(self, history: str) -> list[Feature]:
        """The features of a step, those of the item first."""
        names = next(each for each in self.schema.histories if each.name == history).features
        return sorted(map(self.schema.feature, names), key=lambda f: f.side != "item")

    def forward(self, batch: Batch) -> Fields:
        """Embed a batch."""
        candidate = {
            f.name: self.embed(f, batch.candidate[f.name]) for f in self.schema.candidate_features
        }
        request = [self.embed(f, batch.request[f.name]) for f in self.schema.request_features]
        requests, candidates = len(batch.user), len(batch.request_of_candidate)
        steps, targets = {}, {}
        for name, history in batch.histories.items():
            features = self._step_features(name)
            steps[name] = torch.cat([self.embed(f, history.columns[f.name]) for f in features], 1)
            shared = [candidate[f.name] for f in features if f.side == "item"]
            targets[name] = self._join(shared, candidates)
        return Fields(
            request=self._join(request, requests),
            candidate=self._join(list(candidate.values()), candidates),
            steps=steps,
            targets=targets,
        )

    def _join(self, columns: list[Tensor], rows: int) -> Tensor:
        if columns:
            return torch.cat(columns, dim=1)
        return self._like.new_zeros(rows, 0)

    def embed(self, feature: Feature, column: Column) -> Tensor:
        """One feature's column as vectors ``(rows, width)``."""
        if isinstance(column, Jagged):
            return self._mean_embedding(feature, column)
        if feature.type == "number":
            missing = column.isnan()
            value = column.masked_fill(missing, 0.0)
            column = torch.stack([value, missing.to(value.dtype)], dim=1)
        if feature.space is None:
            vectors = column.to(self._dtype)
            key = _key(feature.name)
            return self.projections[key](vectors) if key in self.projections else vectors
        return functional.embedding(column, self._table(feature))

    def _mean_embedding(self, feature: Feature, column: Jagged) -> Tensor:
        table = self._table(feature)
        offsets = column.offsets.to(column.values.dtype)
        return functional.embedding_bag(
            column.values, table, offsets, mode="mean", include_last_offset=True
        )

    def _table(self, feature: Feature) -> Tensor:
        assert feature.space is not None
        return self.tables[_key(feature.space)]

    @property
    def _dtype(self) -> torch.dtype:
        return self._like.dtype


def embedding_tables(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every embedding table of a model ``(V, D)``, beside the name of its id space."""
    for module in model.modules():
        if isinstance(module, Inputs):
            spaces = dict.fromkeys(f.space for f in module.schema.features if f.space is not None)
            yield from ((space, module.tables[_key(space)]) for space in spaces)


def _raw_width(feature: Feature) -> int:
    """The width of a number (with its flag) or of a pretrained vector."""
    return 2 if feature.type == "number" else feature.size


def _key(name: str) -> str:
    """A name that no attribute of a module has."""
    return f"of_{name}"
