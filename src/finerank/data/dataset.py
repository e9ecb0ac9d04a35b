"""The prepared data set: what `prepare` wrote, memory-mapped."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finerank.data.arrow_file import read_columns
from finerank.data.entities import Entities
from finerank.data.events import EventStore
from finerank.data.examples import Examples
from finerank.data.list_store import ListStore
from finerank.data.manifest import read_manifest
from finerank.data.prefixed import without_prefix
from finerank.data.schema import Schema
from finerank.errors import FinerankError
from finerank.recipe import Recipe

if TYPE_CHECKING:
    from finerank.data.fresh import TrainingSet
    from finerank.data.row_encoder import RowEncoder
    from finerank.data.schema import Home
    from finerank.settings import SplitName


class Dataset:
    """A prepared data set.

    Args:
        folder: what `finerank prepare` wrote.

    Raises:
        FinerankError: the folder holds none, or one of another version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.recipe = Recipe.parse(self.manifest["recipe"], where=str(folder))
        self.schema = Schema.from_json(self.manifest["schema"])

    @cached_property
    def _entities(self) -> dict[Home, Entities]:
        homes: tuple[Home, ...] = ("users", "items")
        there = [home for home in homes if (self.folder / home).exists()]
        return {home: Entities.load(self.folder / home) for home in there}

    @property
    def users(self) -> Entities | None:
        """The users, or None where the log names none."""
        return self._entities.get("users")

    @property
    def items(self) -> Entities | None:
        """The items, or None where the log names none."""
        return self._entities.get("items")

    @cached_property
    def stores(self) -> dict[str, EventStore | ListStore]:
        """The events behind each history, or its steps where its lists are ready-made."""
        folder = self.folder / "events"
        return {
            each.name: (ListStore if each.listed else EventStore).load(folder / each.name)
            for each in self.schema.histories
        }

    @cached_property
    def encoder(self) -> RowEncoder:
        """What turns raw rows into the numbers of this data set."""
        # Training needs neither this nor pyarrow, 40 MB.
        from finerank.data.encoding import load_encodings  # noqa: PLC0415
        from finerank.data.row_encoder import RowEncoder  # noqa: PLC0415

        return RowEncoder.of(load_encodings(self.folder / "encodings", self.schema), self._entities)

    def split(self, name: SplitName) -> Examples:
        """The examples of a split."""
        requests = read_columns(self.folder / name / "requests.arrow")
        candidates = read_columns(self.folder / name / "candidates.arrow")
        labels = [_flat(candidates[f"label.{task}"]) for task in self.schema.tasks]
        first = _first_candidates(self.folder / name / "requests.arrow", len(labels[0]))
        item, user = candidates.get("item"), requests.get("user")
        windows = {
            each.name: (
                _flat(requests[f"start.{each.name}"]),
                _flat(requests[f"end.{each.name}"]),
            )
            for each in self.schema.histories
        }
        return Examples(
            schema=self.schema,
            users=self.users,
            items=self.items,
            stores=self.stores,
            user=torch.zeros(len(first) - 1, dtype=torch.int32) if user is None else _flat(user),
            request=without_prefix(requests),
            windows=windows,
            first_candidate=first,
            item=None if item is None else _flat(item),
            candidate=without_prefix(candidates),
            labels=labels,
        )

    def training_set(self, *, seed: int, only_new: bool = False) -> TrainingSet:
        """The training split as a model is trained on it: with its negatives.

        Args:
            seed: of negatives that are drawn anew in each epoch; no matter else.
            only_new: the rows of the last appending only.

        Raises:
            FinerankError: nothing was appended.
        """
        examples, settings = self.split("train"), self.recipe.negatives
        first = self._first_new() if only_new else 0
        examples = examples.since(first)
        if settings is None or not settings.fresh:
            return examples
        # Without fresh negatives training needs no pyarrow.
        from finerank.data.fresh import FreshNegatives  # noqa: PLC0415
        from finerank.data.sampling import NegativeSampler, item_ids  # noqa: PLC0415

        requests = read_columns(self.folder / "train" / "requests.arrow")
        return FreshNegatives(
            examples,
            NegativeSampler.load(self.folder / "negatives"),
            per_positive=settings.per_positive,
            times=_flat(requests["time"])[first:] if "time" in requests else None,
            item_ids=item_ids(self.recipe, self.schema, self.encoder),
            seed=[settings.seed, seed],
        )

    def _first_new(self) -> int:
        """The first training request of the last appending."""
        appended = self.manifest.get("appended")
        if not appended:
            raise FinerankError(
                str(self.folder), expected="a data set with appended rows", found="one without"
            )
        return int(appended[-1]["first_new_train_request"])


def _first_candidates(path: Path, candidates: int) -> torch.Tensor:
    """Where the candidates of each request begin, and the end ``(R + 1,)``.

    A copy, in short numbers where they suffice. The file is mapped apart for it and let go, or what
    is copied would take memory twice.

    Args:
        path: of the requests.
        candidates: how many there are.
    """
    stored = _flat(read_columns(path)["first_candidate"])
    short = candidates <= torch.iinfo(torch.int32).max
    first = stored.new_empty(len(stored) + 1, dtype=torch.int32 if short else stored.dtype)
    first[:-1], first[-1] = stored, candidates
    return first


def _flat(column: object) -> torch.Tensor:
    assert isinstance(column, torch.Tensor)
    return column
