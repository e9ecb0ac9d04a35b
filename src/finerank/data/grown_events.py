"""The events of an earlier prepared data set and new ones, merged user by user.

Shapes: ``U`` rows of users.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import ibis
import numpy as np
import pyarrow as pa

from finerank.data.assembly import entering, in_order
from finerank.data.events import EventStore
from finerank.data.example_writer import ExampleWriter
from finerank.data.list_writer import ListWriter
from finerank.data.storage import ColumnWriter, read_batch, write_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finerank.data.engine import Engine
    from finerank.data.entities import Entities
    from finerank.data.row_encoder import RowEncoder
    from finerank.data.schema import Home, Schema
    from finerank.recipe import Recipe

_ROWS_A_PIECE = 500_000


def grown_events(
    earlier: Path,
    rows: ibis.Table,
    recipe: Recipe,
    schema: Schema,
    encoder: RowEncoder,
    entities: Mapping[Home, Entities],
    ids: Mapping[str, np.ndarray],
    engine: Engine,
    folder: Path,
) -> tuple[dict[str, EventStore], dict[str, np.ndarray]]:
    """Write the old and the new events of each history of events.

    Args:
        earlier: the folder of the prepared data set.
        rows: the new ones.
        ids: as `own_ids` gives them.
        engine: holds the new rows.
        folder: of the new data set.

    Returns:
        The stores, and how far the old events of each user have moved ``(U,)``.
    """
    stores: dict[str, EventStore] = {}
    shifts: dict[str, np.ndarray] = {}
    if not schema.event_histories:
        return stores, shifts
    keys = encoder.users
    assert keys is not None
    places = ibis.memtable(pa.table({"user_key": keys.values, "user_row": np.arange(1, len(keys))}))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        new, lists = Path(scratch), ListWriter(Path(scratch), recipe, encoder)
        with contextlib.closing(
            ExampleWriter(new, schema, encoder, entities, lists=lists)
        ) as writer:
            for history in schema.event_histories:
                events = entering(rows, history, schema)
                placed = events.join(places, events.user == places.user_key)
                count = 0
                for piece in in_order(engine, placed, ["user_row", "time", "item"]):
                    writer.add_events(history, piece)
                    count += piece.num_rows
                if count:
                    writer.end_events(history)
                here = Path("events") / history.name
                shifts[history.name] = merge_events(
                    earlier / here, new / here if count else None, len(keys), folder / here, ids
                )
                stores[history.name] = EventStore.load(folder / here)
    return stores, shifts


def extended_offsets(store: EventStore, users: int) -> np.ndarray:
    """The offsets of a store ``(U + 1,)`` for more users, who have no events in it."""
    offsets = store.user_offsets.numpy()
    return np.concatenate([offsets, np.full(users + 1 - len(offsets), offsets[-1])])


def merge_events(
    old: Path, new: Path | None, users: int, out: Path, ids: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Write the events of each user, the old ones before the new ones.

    Args:
        old: the folder of a history's events.
        new: that of its new events, of the same columns; None where there are none.
        users: how many rows of users there are now.
        out: the folder to be written.
        ids: features of the log that are the item's own id -> the id of each row of items, looked
            up anew.

    Returns:
        How far the old events of each user have moved ``(U,)``.
    """
    stores = [EventStore.load(old)] + ([] if new is None else [EventStore.load(new)])
    offsets = [extended_offsets(store, users) for store in stores]
    batches = [read_batch(folder / "events.arrow") for folder in (old, new) if folder is not None]
    merged = np.sum(offsets, axis=0)
    with ColumnWriter(out / "events.arrow", batches[0].schema) as writer:
        first = 0
        while first < users:  # as many users as a piece holds, at least one
            end = int(np.searchsorted(merged, merged[first] + _ROWS_A_PIECE, side="right")) - 1
            end = min(max(end, first + 1), users)
            owners = [
                np.repeat(np.arange(first, end), np.diff(each[first : end + 1])) for each in offsets
            ]
            order = pa.array(np.argsort(np.concatenate(owners), kind="stable"))
            parts = [
                batch.slice(each[first], each[end] - each[first])
                for batch, each in zip(batches, offsets, strict=True)
            ]
            columns = {
                name: pa.concat_arrays([part.column(name) for part in parts]).take(order)
                for name in batches[0].schema.names
            }
            for name, of_item in ids.items():
                if f"feature.{name}" in columns:
                    columns[f"feature.{name}"] = pa.array(of_item[np.asarray(columns["item"])])
            writer.append(columns)
            first = end
    write_columns(out / "users.arrow", pa.record_batch({"offset": pa.array(merged)}))
    return np.asarray((merged - offsets[0])[:-1])
