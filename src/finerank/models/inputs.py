"""From a batch's columns to vectors: embeddings, numbers, pretrained vectors.

Shapes: ``R`` requests, ``B`` candidates, ``N`` steps of a history, ``F`` features, ``D`` embedding
width, ``S`` width of a step, ``W`` width of all features of a side.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from finerank.data.batch import Batch, Column, Jagged
from finerank.data.schema import Feature, Schema
from finerank.nn import host
from finerank.nn.joined import Joined, Looked, Rows, whole
from finerank.nn.linear import Linear
from finerank.nn.tables import EmbeddingTables, gather

_INITIAL_STD = 0.1  # of an embedding's components


class Fields(NamedTuple):
    """A batch as vectors.

    Attributes:
        request: user and context, ``W`` wide.
        candidate: its own width.
        steps: history -> ``(N, S)``; first what a step shares with the candidate, in the order of
            ``targets``, then what only a past event has.
        targets: history -> the candidate's side of what its steps share ``(B, D)``.
    """

    request: Rows
    candidate: Rows
    steps: dict[str, Tensor]
    targets: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class _Run:
    """Neighbouring features of one type, embedded together."""

    type: str
    features: tuple[Feature, ...]


class _Side(NamedTuple):
    """What is known of the requests, of the candidates, or of a history's steps."""

    runs: Sequence[_Run]
    columns: Mapping[str, Column]
    rows: int


class Inputs(nn.Module):
    """Embed every feature of a batch.

    One embedding table an id space, so that a candidate and the steps of a history share theirs by
    declaration. Several ids are averaged. A number is two inputs: its standardised value, 0 where
    missing, and whether it is missing. A pretrained vector is projected.

    The ids of all features are looked up at once, and neighbouring features of one type are
    embedded together: a batch takes as many operations for a hundred columns as for two.
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
        self.spaces = sorted(sizes)
        self.tables = EmbeddingTables(
            {_key(space): sizes[space] for space in self.spaces}, embedding_dim, std=_INITIAL_STD
        )
        self.projections = nn.ModuleDict(
            {
                _key(f.name): Linear(_raw_width(f), embedding_dim, bias=False)
                for f in schema.features
                if f.type in projected
            }
        )
        self.request_dim = sum(map(self.width, schema.request_features))
        self.candidate_dim = sum(map(self.width, schema.candidate_features))
        self._of_request = self._runs(schema.request_features)
        self._of_candidate = self._runs(schema.candidate_features)
        self._of_step = {h.name: self._runs(self._step_features(h.name)) for h in schema.histories}
        runs = [*self._of_request, *self._of_candidate, *chain(*self._of_step.values())]
        self._first_rows_of = {run: f"first_rows_{number}" for number, run in enumerate(runs)}
        for run, name in self._first_rows_of.items():
            self.register_buffer(name, torch.tensor(self._first_rows(run)), persistent=False)

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

    def _runs(self, features: Iterable[Feature]) -> list[_Run]:
        """Features in their order, as runs."""
        runs = []
        for kind, group in groupby(features, key=lambda f: f.type):
            run = tuple(group)
            alone = kind in ("ids", "vector") or _key(run[0].name) in self.projections
            runs += [_Run(kind, each) for each in ([(f,) for f in run] if alone else [run])]
        return runs

    def forward(self, batch: Batch) -> Fields:
        """Embed a batch."""
        sides = [
            _Side(self._of_request, batch.request, len(batch.user)),
            _Side(self._of_candidate, batch.candidate, len(batch.request_of_candidate)),
        ]
        for name, steps in batch.histories.items():
            rows = _rows(next(iter(steps.columns.values())))
            sides.append(_Side(self._of_step[name], steps.columns, rows))
        found = self._embeddings(sides)
        request, candidate, *of_steps = (self._joined(side, found) for side in sides)
        return Fields(
            request=request,
            candidate=candidate,
            steps={
                name: whole(steps) for name, steps in zip(batch.histories, of_steps, strict=True)
            },
            targets={name: self._target(name, whole(candidate)) for name in batch.histories},
        )

    def _embeddings(self, sides: Sequence[_Side]) -> dict[_Run, Tensor | Looked]:
        """The embeddings of all ids of a batch, by run: ``(rows, F D)`` each.

        All are looked up at once where there are histories, and on a device. Else single ids are
        left to who reads them first.
        """
        runs = [(run, side.columns) for side in sides for run in side.runs]
        single = [(run, self._stacked(run, columns)) for run, columns in runs if run.type == "id"]
        several = [(run, _jagged(run, columns)) for run, columns in runs if run.type == "ids"]
        rows = [ids.flatten() for _, ids in single]
        rows += [values + self._first_rows(run)[0] for run, (values, _) in several]
        if not rows:
            return {}
        vectors, places = self.tables(torch.cat(rows).long())
        parts = places.split([len(part) for part in rows])
        of_single = [part.view_as(ids) for (_, ids), part in zip(single, parts, strict=False)]
        found: dict[_Run, Tensor | Looked] = {}
        if self.schema.histories or not host.is_readable(vectors):
            embedded = gather(vectors, [each.T.flatten() for each in of_single])
            for (run, ids), part in zip(single, embedded, strict=True):
                found[run] = part.view(ids.shape[1], len(ids) * self.embedding_dim)
        else:
            for (run, _), part in zip(single, of_single, strict=True):
                found[run] = Looked(vectors, part)
        for (run, (_, offsets)), part in zip(several, parts[len(single) :], strict=True):
            found[run] = functional.embedding_bag(
                part, vectors, offsets, mode="mean", include_last_offset=True
            )
        return found

    def _stacked(self, run: _Run, columns: Mapping[str, Column]) -> Tensor:
        """The rows of the tables that a run's ids are at ``(F, rows)``."""
        ids = torch.stack([_tensor(columns[f.name]) for f in run.features])
        first_rows: Tensor = getattr(self, self._first_rows_of[run])
        return ids + first_rows.unsqueeze(1)

    def _first_rows(self, run: _Run) -> list[int]:
        """Where the table of each feature of a run begins."""
        return [self.tables.first_row[_key(f.space)] for f in run.features if f.space is not None]

    def _joined(self, side: _Side, embeddings: Mapping[_Run, Tensor | Looked]) -> Rows:
        """All features of a side."""
        parts = [
            embeddings[run] if run in embeddings else self._without_ids(run, side.columns)
            for run in side.runs
        ]
        rows = Joined(parts or [self.tables.weight.new_zeros(side.rows, 0)])
        return rows if host.is_readable(self.tables.weight) else rows.whole

    def _without_ids(self, run: _Run, columns: Mapping[str, Column]) -> Tensor:
        """Numbers or a pretrained vector ``(rows, width)``."""
        values = [_tensor(columns[f.name]) for f in run.features]
        if run.type == "number":
            numbers = torch.stack(values, dim=1)  # (rows, F)
            missing = numbers.isnan()
            known = numbers.masked_fill(missing, 0.0)
            raw = torch.stack([known, missing.to(known.dtype)], dim=2).flatten(1)
        else:
            (raw,) = values
        raw = raw.to(self.tables.weight.dtype)
        key = _key(run.features[0].name)
        if key not in self.projections:
            return raw
        projected: Tensor = self.projections[key](raw)
        return projected.to(raw.dtype)  # under autocast it is shorter

    def _target(self, history: str, candidate: Tensor) -> Tensor:
        """The candidate's side of what the steps of a history share ``(B, D)``."""
        features = self.schema.candidate_features
        places = [features.index(f) for f in self._step_features(history) if f.side == "item"]
        first = places[0] if places else 0
        if places == list(range(first, first + len(places))):  # they lie side by side
            start = sum(map(self.width, features[:first]))
            return candidate[:, start : start + self.target_dim(history)]
        columns = candidate.split([self.width(f) for f in features], dim=1)
        return torch.cat([columns[place] for place in places], dim=1)


def joined_tables(model: nn.Module) -> Iterator[tuple[list[str], EmbeddingTables]]:
    """The embedding tables of a model, beside the names of their id spaces, in their order."""
    for module in model.modules():
        if isinstance(module, Inputs):
            yield module.spaces, module.tables


def embedding_tables(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every embedding table of a model ``(V, D)``, a view, beside the name of its id space."""
    for spaces, tables in joined_tables(model):
        yield from ((space, tables[_key(space)]) for space in spaces)


def _tensor(column: Column) -> Tensor:
    assert not isinstance(column, Jagged)
    return column


def _jagged(run: _Run, columns: Mapping[str, Column]) -> Jagged:
    column = columns[run.features[0].name]
    assert isinstance(column, Jagged)
    return column


def _rows(column: Column) -> int:
    return len(column.offsets) - 1 if isinstance(column, Jagged) else len(column)


def _raw_width(feature: Feature) -> int:
    """The width of a number (with its flag) or of a pretrained vector."""
    return 2 if feature.type == "number" else feature.size


def _key(name: str) -> str:
    """A name that no attribute of a module has."""
    return f"of_{name}"
