"""Encoded events, requests and candidates on their way to disk, piece by piece, and counted."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finerank.data.batch import Jagged
from finerank.data.events import EventStore
from finerank.data.prefixed import with_prefix
from finerank.data.row_encoder import EncodedRows, RowEncoder, starts_request
from finerank.data.storage import ColumnWriter, write_columns
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from finerank.data.entities import Entities
    from finerank.data.list_writer import ListWriter
    from finerank.data.negatives import Negatives
    from finerank.data.schema import Feature, History, Home, Schema


class ExampleWriter:
    """Writes the events of each history, then the requests and candidates of each split.

    Pieces of events come in order of user and time; pieces of examples too, split after split.

    Args:
        stores: the events of the histories, where they are written already.

    Attributes:
        events: how many events each history has, or steps where its lists are ready-made.
        requests: how many requests each split has.
    """

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        encoder: RowEncoder,
        entities: Mapping[Home, Entities],
        *,
        lists: ListWriter,
        negatives: Negatives | None = None,
        stores: dict[str, EventStore] | None = None,
    ) -> None:
        self.folder, self.schema, self.encoder, self.entities = folder, schema, encoder, entities
        self.lists, self.negatives = lists, negatives
        self._stores = {} if stores is None else stores
        self.events = {name: len(store.time) for name, store in self._stores.items()}
        self.requests: dict[str, int] = {}
        self._stack = contextlib.ExitStack()
        self._events: ColumnWriter | None = None
        self._requests: ColumnWriter | None = None
        self._candidates: ColumnWriter | None = None
        self._previous: EncodedRows | None = None
        self._thinned: list[np.ndarray] = []
        self._per_user = np.zeros(0, dtype=np.int64)
        self._counts: dict[str, _Counts] = {}
        self._in_log = [f for f in schema.features if f.home == "log" and f.side != "history"]

    def add_events(self, history: History, piece: pa.RecordBatch) -> None:
        """Add events, in order of user and time."""
        if not piece.num_rows:
            return
        features = self.schema.event_features(history)
        rows = self.encoder.encode(piece, [f.name for f in features])
        assert rows.user is not None
        assert rows.time is not None
        columns = {"time": pa.array(rows.time, from_pandas=False), **with_prefix(rows.features)}
        if rows.item is not None:
            columns["item"] = pa.array(rows.item)
        if self._events is None:
            path = self.folder / "events" / history.name / "events.arrow"
            self._events = self._stack.enter_context(ColumnWriter(path, _schema_of(columns)))
            self._per_user = np.zeros(len(self.entities["users"].keys), dtype=np.int64)
        self._events.append(columns)
        self._per_user += np.bincount(rows.user, minlength=len(self._per_user))

    def end_events(self, history: History) -> None:
        """Close the store of a history.

        Raises:
            FinerankError: no event entered it.
        """
        self._stack.close()
        if self._events is None:
            raise FinerankError(
                f"histories.{history.name}.where",
                expected="a condition that some rows of the log satisfy",
                found="none that does",
                fix="Compare it with the values in the log.",
            )
        folder = self.folder / "events" / history.name
        offsets = np.concatenate([[0], np.cumsum(self._per_user)])
        write_columns(folder / "users.arrow", pa.record_batch({"offset": pa.array(offsets)}))
        self._stores[history.name] = EventStore.load(folder)
        self.events[history.name] = int(offsets[-1])
        self._events = None

    def add_examples(self, split: str, piece: pa.RecordBatch) -> None:
        """Add examples, in order of user, time and context."""
        if not piece.num_rows:
            return
        rows = self.encoder.encode(piece, [f.name for f in self._in_log])
        own = [f.name for f in self._in_log if f.side != "item"]
        differs, listed = self.lists.add(piece)
        starts = np.flatnonzero(starts_request(rows, own, self._previous) | differs)
        request = with_prefix({name: rows.features[name].take(pa.array(starts)) for name in own})
        labels = {task: _labels(piece.column(f"label.{task}")) for task in self.schema.tasks}
        if rows.user is not None:
            request["user"] = pa.array(rows.user[starts])
        if rows.time is not None:
            request["time"] = pa.array(rows.time[starts], from_pandas=False)
        windows = {name: (one[starts], end[starts]) for name, (one, end) in listed.items()}
        for history in self.schema.event_histories:
            assert rows.user is not None
            assert rows.time is not None
            windows[history.name] = self._stores[history.name].window(
                rows.user[starts], rows.time[starts], history.max_length, history.max_age
            )
        for name, window in windows.items():
            request[f"start.{name}"], request[f"end.{name}"] = map(pa.array, window)
        self._previous = rows.take(np.array([len(rows) - 1]))
        places = self.add_encoded(split, rows, labels, request, starts)
        if "thinned" in piece.schema.names:
            thinned = piece.column("thinned").to_numpy(zero_copy_only=False)
            self._thinned.append(places[thinned])

    def add_encoded(
        self,
        split: str,
        rows: EncodedRows,
        labels: dict[str, np.ndarray],
        request: dict[str, pa.Array],
        starts: np.ndarray,
    ) -> np.ndarray:
        """Add examples that are encoded already; negatives are sampled beside them.

        Args:
            rows: with the features that are in the log.
            labels: of each task, one a row.
            request: the columns of the requests, but for ``first_candidate``.
            starts: the first row of each request.

        Returns:
            The candidate of the split that each row has become.
        """
        candidates, places = rows, np.arange(len(rows))
        if self.negatives is not None:
            candidates, labels, places = self.negatives.between(split, rows, labels)
        candidate = with_prefix(
            {f.name: candidates.features[f.name] for f in self._in_log if f.side == "item"}
        )
        if candidates.item is not None:
            candidate["item"] = pa.array(candidates.item)
        for task, each in labels.items():
            candidate[f"label.{task}"] = pa.array(each, from_pandas=False)
        before = self._candidates.rows if self._candidates else 0
        request = {**request, "first_candidate": pa.array(places[starts] + before)}
        if self._requests is None or self._candidates is None:
            self._requests, self._candidates = (
                self._stack.enter_context(
                    ColumnWriter(self.folder / split / f"{kind}.arrow", _schema_of(columns))
                )
                for kind, columns in (("requests", request), ("candidates", candidate))
            )
            self._counts[split] = _Counts()
        self._requests.append(request)
        self._candidates.append(candidate)
        self.requests[split] = self._requests.rows
        self._count(split, candidates, candidate)
        return places + before

    def close(self) -> None:
        """Close what is open; needed where something failed in between."""
        self._stack.close()
        self.lists.close()

    def end_lists(self) -> None:
        """Close the stores of ready-made histories.

        Raises:
            FinerankError: no row has a step of one.
        """
        self.events |= self.lists.end()

    def end_examples(self, split: str) -> None:
        """Close the files of a split."""
        self._stack.close()
        if self._thinned:
            thinned = pa.record_batch({"candidate": np.concatenate(self._thinned)})
            write_columns(self.folder / split / "thinned.arrow", thinned)
        self._thinned = []
        self._requests = self._candidates = self._previous = None

    def _count(self, split: str, rows: EncodedRows, candidate: dict[str, pa.Array]) -> None:
        counts = self._counts[split]
        for feature in self.schema.features:
            if feature.side != "history":
                counts.add(f"unknown.{feature.name}", self._unknown(feature, rows))
        for task in self.schema.tasks:
            labels = candidate[f"label.{task}"].to_numpy()
            counts.add(f"label.{task}", labels[~np.isnan(labels)])

    def _unknown(self, feature: Feature, rows: EncodedRows) -> np.ndarray:
        """Where a feature's value is unknown or missing, a flag for each example."""
        if feature.home == "log":
            array = rows.features[feature.name]
            if feature.type == "ids":
                return _without_known(array.values.to_numpy(), array.offsets.to_numpy())
            if feature.type == "vector":
                return ~array.flatten().to_numpy().reshape(len(array), -1).any(axis=1)
            return _is_unknown(array.to_numpy())
        entity = rows.user if feature.home == "users" else rows.item
        column = self.entities[feature.home].features[feature.name]
        if isinstance(column, Jagged):
            return _without_known(column.values.numpy(), column.offsets.numpy())[entity]
        values = column.numpy()[entity]
        unknown = ~values.any(axis=1) if feature.type == "vector" else _is_unknown(values)
        return np.asarray(unknown)

    def unknown_rates(self) -> dict[str, dict[str, float]]:
        """By split and feature, the share of examples whose value is unknown or missing."""
        return self._rates("unknown.")

    def label_rates(self) -> dict[str, dict[str, float]]:
        """By split and task, the share of labels that are 1."""
        return self._rates("label.")

    def _rates(self, prefix: str) -> dict[str, dict[str, float]]:
        return {
            split: {
                name.removeprefix(prefix): round(float(hits / total), 6) if total else 0.0
                for name, (hits, total) in counts.by_name.items()
                if name.startswith(prefix)
            }
            for split, counts in self._counts.items()
        }


class _Counts:
    """Sums and sizes of flags by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, tuple[float, int]] = {}

    def add(self, name: str, flags: np.ndarray) -> None:
        hits, total = self.by_name.get(name, (0.0, 0))
        self.by_name[name] = (hits + float(flags.sum()), total + len(flags))


def _without_known(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Which lists of ids hold no known one."""
    known = np.concatenate([[0], np.cumsum(ids != 0)])[offsets]
    return known[1:] == known[:-1]


def _is_unknown(values: np.ndarray) -> np.ndarray:
    return np.isnan(values) if values.dtype.kind == "f" else values == 0


def _labels(column: pa.Array) -> np.ndarray:
    return np.asarray(column.to_numpy(zero_copy_only=False).astype(np.float32))


def _schema_of(columns: dict[str, pa.Array]) -> pa.Schema:
    return pa.schema([(name, array.type) for name, array in columns.items()])
