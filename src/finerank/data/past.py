"""What users did before they ask: the histories of a served request."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from finerank.data.events import EventStore
from finerank.data.rows import as_id, select_rows
from finerank.data.storage import as_column
from finerank.data.tables import Sql, check_column, check_sql, with_columns, with_sql
from finerank.data.vocabulary import Vocabulary
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import ibis

    from finerank.data.dataset import Dataset
    from finerank.data.row_encoder import RowEncoder
    from finerank.data.schema import History, Schema
    from finerank.data.times import Times
    from finerank.recipe import Recipe


@dataclass(frozen=True)
class Past:
    """The events of some users.

    Attributes:
        keys: raw user id -> row in the stores.
        stores: history -> its events.
        has_time: whether the events have times of their own, or only an order.
    """

    keys: Vocabulary
    stores: dict[str, EventStore]
    has_time: bool = True

    @classmethod
    def empty(cls, schema: Schema, encoder: RowEncoder) -> Past:
        """Nobody did anything."""
        keys = Vocabulary(pa.array([], pa.int64()))
        nobody = np.zeros(0, dtype=np.int64)
        stores = {
            h.name: _store(h, schema, encoder, keys, None, nobody) for h in schema.event_histories
        }
        return cls(keys, stores)

    @classmethod
    def of(cls, dataset: Dataset) -> Past:
        """All that a prepared data set knows."""
        assert dataset.users is not None
        stores = {n: each for n, each in dataset.stores.items() if isinstance(each, EventStore)}
        return cls(dataset.users.keys, stores)

    @classmethod
    def from_log(cls, log: ibis.Table, recipe: Recipe, schema: Schema, encoder: RowEncoder) -> Past:
        """The events of a raw log with the recipe's columns, in its order where it has no times.

        Raises:
            FinerankError: a column that the histories need is not there.
        """
        assert recipe.log.user is not None
        log = with_columns(log, derivable(recipe.log.derive, log.columns), "log.derive")
        for column in (recipe.log.user, recipe.log.item):
            if column is not None:
                check_column(column, log.columns, "history")
        has_time = recipe.log.time in log.columns
        users = log.select(user=as_id(log[recipe.log.user], "log.user")).distinct().to_pyarrow()
        keys = Vocabulary(users["user"].combine_chunks().drop_null())
        stores = {}
        for history in schema.event_histories:
            entering = log
            if (where := recipe.histories[history.name].where) is not None:
                flag = f"enters.{history.name}"
                flagged = with_sql(log, {flag: Sql(where, f"histories.{history.name}.where")})
                entering = flagged.filter(flagged[flag]).drop(flag)
            features = [n for n in history.features if schema.feature(n).home == "log"]
            for name in features:
                check_column(recipe.column_of(name), log.columns, f"history, for {name}")
            selected = select_rows(entering, recipe, features, labels=False)
            order = [name for name in ("user", "time", "item") if name in selected.columns]
            selected = selected.drop_null(order, how="any")
            rows = (selected.order_by(order) if has_time else selected).to_pyarrow()
            users = keys.encode(rows["user"].combine_chunks())
            stores[history.name] = _store(history, schema, encoder, keys, rows, users)
        return cls(keys, stores, has_time)

    def windows(
        self, users: pa.Array | None, times: Times | None, rows: int, schema: Schema
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Where each request's histories begin and end; all of the past where it has no time.

        Args:
            users: raw user ids ``(R,)``.
            times: of the requests ``(R,)``; None for now.
            rows: how many requests.

        Raises:
            FinerankError: no times, but a history whose steps may have an age only.
        """
        windows = {}
        for history in schema.event_histories:
            assert users is not None
            store = self.stores[history.name]
            max_age = history.max_age if self.has_time else None
            if max_age is not None and times is None:
                raise FinerankError(
                    "time",
                    expected=f"the time of the request, as histories.{history.name} has max_age",
                    found="none",
                )
            if times is None or not self.has_time:
                kind = store.time.numpy().dtype
                last = np.inf if kind.kind == "f" else np.iinfo(kind).max
                ends = np.full(rows, last, dtype=kind)
            else:
                ends = times
            bounds = store.window(self.keys.encode(users), ends, history.max_length, max_age)
            windows[history.name] = (torch.from_numpy(bounds[0]), torch.from_numpy(bounds[1]))
        return windows


def derivable(derive: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    """Those derived columns that a table lacks and whose own columns it has."""
    found = {}
    for name, sql in derive.items():
        if name not in columns:
            with contextlib.suppress(FinerankError):
                check_sql(sql, tuple(columns), name)
                found[name] = sql
    return found


def _store(
    history: History,
    schema: Schema,
    encoder: RowEncoder,
    keys: Vocabulary,
    rows: pa.Table | None,
    users: np.ndarray,
) -> EventStore:
    """The events of one history, from rows in any order of users."""
    features = [n for n in history.features if schema.feature(n).home == "log"]
    if rows is None:
        columns = {n: as_column(pa.array([], encoder.encodings[n].type)) for n in features}
        nothing = torch.zeros(0, dtype=torch.int64)
        item = None if encoder.items is None else nothing.int()
        return EventStore(nothing, item, columns, torch.zeros(2, dtype=torch.int64))
    encoded = encoder.encode(rows, features)
    times = np.arange(len(rows)) if encoded.time is None else encoded.time
    order = np.lexsort((times, users))
    places = pa.array(order)
    counts = np.bincount(users, minlength=len(keys))
    return EventStore(
        time=torch.from_numpy(times[order]),
        item=None if encoded.item is None else torch.from_numpy(encoded.item[order]),
        columns={name: as_column(array.take(places)) for name, array in encoded.features.items()},
        user_offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
    )
