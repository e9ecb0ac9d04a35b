"""Scores for raw rows and for the candidates of a user, from a bundle."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from finerank.bundle import Bundle, load_bundle
from finerank.data.dataset import Dataset
from finerank.data.past import Past
from finerank.data.times import as_times
from finerank.errors import FinerankError, did_you_mean
from finerank.raw_rows import RawRows
from finerank.scoring import logits_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_ONE = 0  # stands for the one user whose events are given


@dataclass(frozen=True)
class Ranked:
    """One candidate, scored.

    Attributes:
        item: its raw id.
        title: what people call it, where the item table has a title.
        known: whether the data set knew the item.
        scores: task -> probability.
    """

    item: object
    title: str | None
    known: bool
    scores: dict[str, float]


class Ranker:
    """Scores raw rows and candidates with a trained model.

    Args:
        bundle: the model with all that it needs to read raw rows.
        past: what users did so far; where left out, that of the data set that the model was
            trained on if it is still in its place, else nothing.

    Attributes:
        lacks_past: whether the model reads histories and nothing is known of any.
    """

    def __init__(self, bundle: Bundle, past: Past | None = None) -> None:
        self.bundle, self.recipe, self.schema = bundle, bundle.recipe, bundle.schema
        known = past or _past_of_training(bundle)
        self.past = known or Past.empty(self.schema, bundle.encoder)
        self.lacks_past = bool(self.schema.event_histories) and known is None
        self._raw = RawRows(self.recipe, self.schema)

    @property
    def list_columns(self) -> set[str]:
        """The columns of requests that hold the lists of ready-made histories, not as text."""
        return {
            column
            for history in self.recipe.list_histories.values()
            if history.separator is None
            for column in (history.lists or {}).values()
        }

    @classmethod
    def load(cls, path: str | Path, *, history: str | Path | pa.Table | None = None) -> Ranker:
        """Load a bundle, or the one in a run's folder.

        Args:
            path: the folder.
            history: a raw log with what users did so far, in place of the data set's.

        Raises:
            FinerankError: the bundle is broken, or the log misses a column.
        """
        ranker = cls(load_bundle(path))
        if history is not None:
            ranker.past, ranker.lacks_past = ranker.read_history(history), False
        return ranker

    def read_history(self, log: str | Path | pa.Table) -> Past:
        """What users did, from a raw log: a file, a folder, a pattern, or an Arrow table.

        Raises:
            FinerankError: a column that the histories need is not there.
        """
        with self._raw.opened(log, "history") as table:
            return Past.from_log(table, self.recipe, self.schema, self.bundle.encoder)

    def rank(
        self,
        *,
        user: object,
        candidates: Sequence[object],
        time: object = None,
        context: Mapping[str, object] | None = None,
        history: Sequence[Mapping[str, object]] | None = None,
        by: str | None = None,
    ) -> list[Ranked]:
        """Score the candidates of one request, best first.

        Args:
            user: raw id; one never seen scores as the unknown user.
            candidates: raw ids of items; those never seen score as the unknown item.
            time: of the request, as in the log; only events strictly before it are history. Now
                where left out: everything is.
            context: the log's other columns that the features need, and those of ready-made
                histories: the lists as the log has them.
            history: this user's events, oldest first, each with the log's columns, in place of
                what is known of the user.
            by: the task to order by; the first where left out.

        Raises:
            FinerankError: no candidates, or a column that a feature needs is not given.
        """
        log, by = self.recipe.log, by or self.schema.tasks[0]
        if by not in self.schema.tasks:
            hint = did_you_mean(by, self.schema.tasks)
            raise FinerankError("by", expected="a task", found=repr(by), fix=hint)
        if log.item is None or len(candidates) == 0:
            found = "none" if log.item is not None else "a recipe without log.item"
            raise FinerankError("candidates", expected="at least one item", found=found)
        same = dict(context or {})
        if log.user is not None:
            same[log.user] = user
        if time is not None and log.time is not None:
            same[log.time] = time
        columns = {log.item: _as_array(log.item, candidates)}
        copies = pa.array(np.zeros(len(candidates), dtype=np.int64))
        columns |= {n: _as_array(n, [value]).take(copies) for n, value in same.items()}
        past, past_users = self.past, None
        if history is not None and log.user is not None:
            past = self._past_of_one(history)
            past_users = pa.array([_ONE] * len(candidates))
        rows = self._raw.named(pa.table(columns))
        logits = logits_of(self.bundle, rows, past, past_users, one_request=True)
        probabilities = _sigmoid(logits)
        assert self.bundle.items is not None
        item_rows = self.bundle.items.keys.encode(columns[log.item])
        order = np.argsort(-logits[:, self.schema.tasks.index(by)], kind="stable")
        return [
            Ranked(
                item=candidates[place],
                title=self.bundle.items.title(int(item_rows[place])),
                known=bool(item_rows[place]),
                scores=dict(zip(self.schema.tasks, probabilities[place].tolist(), strict=True)),
            )
            for place in order
        ]

    def history(
        self, user: object, *, name: str | None = None, time: object = None
    ) -> list[tuple[object, str | None]]:
        """The items of a user's history, oldest first, with their titles.

        Args:
            user: raw id.
            name: which history; the first of the recipe where left out.
            time: only events strictly before it; all where left out.

        Raises:
            FinerankError: the recipe has no such history.
        """
        known = self.schema.event_histories
        history = next((h for h in known if name in (None, h.name)), None)
        if history is None:
            hint = did_you_mean(str(name), [h.name for h in known])
            raise FinerankError("name", expected="a history of events", found=repr(name), fix=hint)
        times = None if time is None else as_times(pa.array([time]))
        bounds = self.past.windows(pa.array([user]), times, 1, self.schema)[history.name]
        store, items = self.past.stores[history.name], self.bundle.items
        assert store.item is not None
        assert items is not None
        rows = store.item[int(bounds[0]) : int(bounds[1])].numpy()
        titles = [items.title(int(row)) for row in rows]
        return list(zip(items.keys.decode(rows), titles, strict=True))

    def predict(self, rows: str | Path | pa.Table) -> pa.Table:
        """Score raw rows: their user, item and time, and one column ``score_TASK`` a task.

        Histories end strictly before a row's time, where rows have times.

        Args:
            rows: a file, a folder, a pattern, or an Arrow table, with the log's columns.

        Raises:
            FinerankError: a column that a feature needs is not there.
        """
        pieces = []
        for raw in self._raw.pieces(rows):
            if not raw.num_rows:
                continue
            logits = logits_of(self.bundle, self._raw.named(raw), self.past)
            names = [self.recipe.log.user, self.recipe.log.item, self.recipe.log.time]
            kept = {name: raw[name] for name in names if name in raw.column_names}
            scores = _sigmoid(logits)
            for column, task in enumerate(self.schema.tasks):
                kept[f"score_{task}"] = pa.array(scores[:, column])
            pieces.append(pa.table(kept))
        if not pieces:
            raise FinerankError("rows", expected="rows to score", found="none")
        return pa.concat_tables(pieces)

    def _past_of_one(self, history: Sequence[Mapping[str, object]]) -> Past:
        """The past of one user, known or not, from their events."""
        if not history:
            return Past.empty(self.schema, self.bundle.encoder)
        names = list(dict.fromkeys(name for event in history for name in event))
        columns = {name: _as_array(name, [event.get(name) for event in history]) for name in names}
        assert self.recipe.log.user is not None
        columns[self.recipe.log.user] = pa.array([_ONE] * len(history))
        return self.read_history(pa.table(columns))


def load_ranker(path: str | Path, *, history: str | Path | pa.Table | None = None) -> Ranker:
    """As `Ranker.load`."""
    return Ranker.load(path, history=history)


def _past_of_training(bundle: Bundle) -> Past | None:
    """The data set's past; None where the data set is gone or was prepared anew."""
    if bundle.schema.event_histories:
        with contextlib.suppress(FinerankError):  # it is gone, or of another version
            dataset = Dataset(bundle.dataset)
            if dataset.manifest["identity"] == bundle.dataset_identity:
                return Past.of(dataset)
    return None


def _as_array(name: str, values: Sequence[object]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowException as error:
        found = str(error).splitlines()[0]
        raise FinerankError(name, expected="values of one type", found=found) from error


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).sigmoid().numpy()
