"""Scores for raw rows and for the candidates of a user, from a bundle.

Shapes: ``R`` requests, ``B`` candidates, ``T`` tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import ibis
import numpy as np
import pyarrow as pa
import torch

from finerank.bundle import Bundle, load_bundle
from finerank.data.dataset import Dataset
from finerank.data.events import as_times
from finerank.data.examples import Examples
from finerank.data.past import Past
from finerank.data.prepare import MANIFEST as DATASET_MANIFEST
from finerank.data.rows import EncodedRows, starts_request
from finerank.data.storage import as_column
from finerank.data.tables import open_table, with_columns
from finerank.errors import FinerankError, did_you_mean
from finerank.evaluation.evaluator import score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_ROWS_A_PIECE = 100_000


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
    """

    def __init__(self, bundle: Bundle, past: Past | None = None) -> None:
        self.bundle, self.recipe, self.schema = bundle, bundle.recipe, bundle.schema
        self.past = past or _past_of_training(bundle)
        self._features = [
            f for f in self.schema.features if f.home == "log" and f.side != "history"
        ]
        self._engine = ibis.duckdb.connect()

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
            ranker.past = ranker.read_history(history)
        return ranker

    def read_history(self, log: str | Path | pa.Table) -> Past:
        """What users did, from a raw log: a file, a folder, a pattern, or an Arrow table.

        Raises:
            FinerankError: a column that the histories need is not there.
        """
        if isinstance(log, pa.Table):
            table = ibis.memtable(log)
        else:
            table = open_table(self._engine, str(log), "history")
        for name in (self.recipe.log.user, self.recipe.log.item):
            if name is not None and name not in table.columns:
                hint = did_you_mean(name, table.columns)
                raise FinerankError(
                    "history", expected=f"a column {name!r}", found="none", fix=hint
                )
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
            context: the log's other columns that the features need.
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
        columns: dict[str, pa.Array] = {log.item: pa.array(candidates)}
        if log.user is not None:
            columns[log.user] = pa.array([user] * len(candidates))
        if time is not None and log.time is not None:
            columns[log.time] = pa.array([time] * len(candidates))
        for name, value in (context or {}).items():
            columns[name] = pa.array([value] * len(candidates))
        past = self.past
        if history is not None and log.user is not None:
            events = [{**event, log.user: user} for event in history]
            past = self.read_history(pa.Table.from_pylist(events)) if events else self._no_past()
        logits = self._logits(self._rows(pa.table(columns)), past)
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
        """
        history = next(h for h in self.schema.histories if name in (None, h.name))
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
        for raw in self._read(rows):
            logits = self._logits(self._rows(raw), self.past)
            names = [self.recipe.log.user, self.recipe.log.item, self.recipe.log.time]
            kept = {name: raw[name] for name in names if name in raw.column_names}
            scores = _sigmoid(logits)
            for column, task in enumerate(self.schema.tasks):
                kept[f"score_{task}"] = pa.array(scores[:, column])
            pieces.append(pa.table(kept))
        if not pieces:
            raise FinerankError("rows", expected="rows to score", found="none")
        return pa.concat_tables(pieces)

    def _read(self, rows: str | Path | pa.Table) -> Iterator[pa.Table]:
        if isinstance(rows, pa.Table):
            yield rows
            return
        table = open_table(self._engine, str(rows), "rows")
        for batch in table.to_pyarrow_batches(chunk_size=_ROWS_A_PIECE):
            yield pa.Table.from_batches([batch])

    def _rows(self, raw: pa.Table) -> pa.Table:
        """Raw rows under our own names, with what the recipe derives."""
        log, recipe = self.recipe.log, self.recipe
        needed = {feature.name: recipe.column_of(feature.name) for feature in self._features}
        missing = {c for c in needed.values() if c not in raw.column_names}
        if derived := {c: sql for c, sql in log.derive.items() if c in missing}:
            raw = with_columns(ibis.memtable(raw), derived, "log.derive").to_pyarrow()
        roles = {"item": log.item, "user": log.user}
        wanted = {r: c for r, c in roles.items() if c is not None}
        wanted |= {f"feature.{name}": column for name, column in needed.items()}
        if log.time is not None and log.time in raw.column_names:
            wanted["time"] = log.time
        for name, column in wanted.items():
            if column not in raw.column_names:
                raise FinerankError(
                    "rows",
                    expected=f"a column {column!r} (for {name})",
                    found="none",
                    fix=did_you_mean(column, raw.column_names),
                )
        return pa.table({name: raw[column].combine_chunks() for name, column in wanted.items()})

    def _logits(self, rows: pa.Table, past: Past) -> np.ndarray:
        """The logits ``(B, T)``; neighbouring rows of one user, time and context are a request."""
        bundle, features = self.bundle, [feature.name for feature in self._features]
        encoded = bundle.encoder.encode(rows, features)
        request = [f.name for f in self._features if f.side != "item"]
        users = rows["user"].combine_chunks() if "user" in rows.column_names else None
        starts = self._starts(encoded, None if users is None else past.keys.encode(users))
        first = np.flatnonzero(starts)
        places = pa.array(first)
        own = {name: as_column(encoded.features[name].take(places)) for name in request}
        users = None if users is None else users.take(places)
        times = None if encoded.time is None else encoded.time[first]
        examples = Examples(
            schema=self.schema,
            users=bundle.users,
            items=bundle.items,
            stores=past.stores,
            user=torch.zeros(len(first), dtype=torch.int32)
            if encoded.user is None
            else torch.from_numpy(encoded.user[first]),
            request=own,
            windows=past.windows(users, times, len(first), self.schema),
            first_candidate=torch.from_numpy(np.append(first, len(starts))),
            item=None if encoded.item is None else torch.from_numpy(encoded.item),
            candidate={
                f.name: as_column(encoded.features[f.name])
                for f in self._features
                if f.side == "item"
            },
            labels=None,
        )
        return score(bundle.model, examples)

    def _starts(self, rows: EncodedRows, past_user: np.ndarray | None) -> np.ndarray:
        """Where a row's request differs from that of the row before.

        Args:
            rows: encoded rows.
            past_user: row of each row's user in the past, which may know users of its own.
        """
        count = len(rows.item) if rows.item is not None else len(next(iter(rows.features.values())))
        features = [f.name for f in self._features if f.side != "item"]
        same = np.zeros(count, dtype=np.int32)
        starts = np.zeros(count, dtype=bool)
        for user in (rows.user, past_user):
            keyed = replace(
                rows,
                user=same if user is None else user,
                time=same if rows.time is None else rows.time,
            )
            starts |= starts_request(keyed, features)
        return starts

    def _no_past(self) -> Past:
        return Past.empty(self.schema, self.bundle.encoder)


def _past_of_training(bundle: Bundle) -> Past:
    """The data set's past, where the data set is still there and the same."""
    if bundle.schema.histories and (bundle.dataset / DATASET_MANIFEST).is_file():
        dataset = Dataset(bundle.dataset)
        if dataset.manifest["identity"] == bundle.dataset_identity:
            return Past.of(dataset)
    return Past.empty(bundle.schema, bundle.encoder)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).sigmoid().numpy()
