"""Scores for raw rows and for the candidates of a user, from a bundle.

Shapes: ``R`` requests, ``B`` candidates, ``T`` tasks.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import duckdb
import ibis
import numpy as np
import pyarrow as pa
import torch

from finerank.bundle import Bundle, load_bundle
from finerank.data.dataset import Dataset
from finerank.data.events import as_times
from finerank.data.examples import Examples
from finerank.data.files import open_table
from finerank.data.list_columns import list_columns
from finerank.data.lists import read_lists
from finerank.data.past import Past, derivable
from finerank.data.rows import EncodedRows, starts_request
from finerank.data.storage import as_column
from finerank.data.tables import check_sql
from finerank.errors import FinerankError, did_you_mean
from finerank.evaluation.evaluator import score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_ROWS_A_PIECE = 100_000
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
        self._features = [
            f for f in self.schema.features if f.home == "log" and f.side != "history"
        ]
        self._engine = ibis.duckdb.connect()

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
        with self._opened(log, "history") as table:
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
        columns |= {n: _as_array(n, [value] * len(candidates)) for n, value in same.items()}
        past, past_users = self.past, None
        if history is not None and log.user is not None:
            past = self._past_of_one(history)
            past_users = pa.array([_ONE] * len(candidates))
        logits = self._logits(self._rows(pa.table(columns)), past, past_users)
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
        for raw in self._read(rows):
            if not raw.num_rows:
                continue
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

    @contextlib.contextmanager
    def _opened(self, table: str | Path | pa.Table, where: str) -> Iterator[ibis.Table]:
        """A table in the engine, for as long as it is needed."""
        arrow = isinstance(table, pa.Table)
        name = ibis.util.gen_name(where)
        if arrow:
            self._engine.con.register(name, table)
        try:
            yield self._engine.table(name) if arrow else open_table(self._engine, str(table), where)
        except duckdb.Error as error:
            found = " ".join(str(error).partition("\n\n")[0].split())
            raise FinerankError(
                where, expected="values that the recipe's SQL can take", found=found
            ) from error
        finally:
            if arrow:
                self._engine.con.unregister(name)

    def _with_derived(self, raw: pa.Table, derived: Mapping[str, str]) -> pa.Table:
        """Rows with further columns; straight to the engine, since a served call can't wait."""
        for name, sql in derived.items():
            check_sql(sql, tuple(raw.column_names), f"log.derive.{name}")
        selected = ", ".join(f'({sql}\n) AS "{name}"' for name, sql in derived.items())
        with self._engine.con.cursor() as cursor:  # another query would end a stream of rows
            cursor.register("raw", raw)
            try:
                added = cursor.sql(f"SELECT {selected} FROM raw").to_arrow_table()  # noqa: S608
            except duckdb.Error as error:
                raise FinerankError(
                    f"log.derive {', '.join(derived)}",
                    expected="values that its SQL can take",
                    found=" ".join(str(error).partition("\n\n")[0].split()),
                ) from error
        for name in added.column_names:
            raw = raw.append_column(name, added[name])
        return raw

    def _rows(self, raw: pa.Table) -> pa.Table:
        """Raw rows under our own names, with what the recipe derives."""
        log, recipe = self.recipe.log, self.recipe
        roles = {"item": log.item, "user": log.user}
        wanted = {r: c for r, c in roles.items() if c is not None}
        wanted |= {f"feature.{f.name}": recipe.column_of(f.name) for f in self._features}
        wanted |= list_columns(recipe)
        of_time = {c: sql for c, sql in log.derive.items() if c == log.time}
        times = (*raw.column_names, *derivable(of_time, raw.column_names))
        if log.time is not None and log.time in times:
            wanted["time"] = log.time
        missing = set(wanted.values()).difference(raw.column_names)
        if derived := {c: sql for c, sql in log.derive.items() if c in missing}:
            raw = self._with_derived(raw, derived)
        if "time" in wanted and raw[log.time].null_count == raw.num_rows:
            del wanted["time"]
        if "time" in wanted:
            self._check_time(raw[log.time].type)
        for name, column in wanted.items():
            if column not in raw.column_names:
                raise FinerankError(
                    "rows",
                    expected=f"a column {column!r} (for {name})",
                    found="none",
                    fix=did_you_mean(column, raw.column_names),
                )
        return pa.table({name: raw[column].combine_chunks() for name, column in wanted.items()})

    def _check_time(self, kind: pa.DataType) -> None:
        """Check that times are of the log's kind: a date would be after every number."""
        number = (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        )
        if number != (self.schema.time == "number"):
            expected = "a number" if self.schema.time == "number" else "a date or a time"
            raise FinerankError("time", expected=f"{expected}, as in the log", found=str(kind))

    def _logits(self, rows: pa.Table, past: Past, past_users: pa.Array | None = None) -> np.ndarray:
        """The logits ``(B, T)``; neighbouring rows of one user, time and context are a request.

        Args:
            rows: as `_rows` gives them.
            past: where histories are looked up.
            past_users: whose they are ``(B,)``; the rows' own users where left out.
        """
        bundle, features = self.bundle, [feature.name for feature in self._features]
        encoded = _without_missing_times(bundle.encoder.encode(rows, features))
        request = [f.name for f in self._features if f.side != "item"]
        users = past_users
        if users is None and "user" in rows.column_names:
            users = rows["user"].combine_chunks()
        starts = self._starts(encoded, None if users is None else past.keys.encode(users))
        lists = {
            h.name: read_lists(rows, h.name, self.recipe, bundle.encoder)
            for h in self.schema.list_histories
        }
        for each in lists.values():
            starts |= each.changes()
        first = np.flatnonzero(starts)
        places = pa.array(first)
        own = {name: as_column(encoded.features[name].take(places)) for name in request}
        users = None if users is None else users.take(places)
        times = None if encoded.time is None else encoded.time[first]
        windows = past.windows(users, times, len(first), self.schema)
        for name, each in lists.items():
            bounds = each.offsets[first], each.offsets[first + 1]
            windows[name] = torch.from_numpy(bounds[0]), torch.from_numpy(bounds[1])
        examples = Examples(
            schema=self.schema,
            users=bundle.users,
            items=bundle.items,
            stores={**past.stores, **{name: each.store() for name, each in lists.items()}},
            user=torch.zeros(len(first), dtype=torch.int32)
            if encoded.user is None
            else torch.from_numpy(encoded.user[first]),
            request=own,
            windows=windows,
            first_candidate=torch.from_numpy(np.append(first, len(starts))),
            item=None if encoded.item is None else torch.tensor(encoded.item),
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
        features = [f.name for f in self._features if f.side != "item"]
        same = np.zeros(len(rows), dtype=np.int32)
        starts = np.zeros(len(rows), dtype=bool)
        for user in (rows.user, past_user):
            keyed = replace(
                rows,
                user=same if user is None else user,
                time=same if rows.time is None else rows.time,
            )
            starts |= starts_request(keyed, features)
        return starts

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


def _without_missing_times(rows: EncodedRows) -> EncodedRows:
    """A row whose time is missing asks now: after all that is known."""
    if rows.time is None or rows.time.dtype.kind != "f":
        return rows
    return replace(rows, time=np.where(np.isnan(rows.time), np.inf, rows.time))


def _as_array(name: str, values: Sequence[object]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowException as error:
        found = str(error).splitlines()[0]
        raise FinerankError(name, expected="values of one type", found=found) from error


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).sigmoid().numpy()
