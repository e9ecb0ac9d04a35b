"""Users and items on their way to disk: their ids in order, their features encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finerank.data.entities import Entities
from finerank.data.row_encoder import RowEncoder
from finerank.data.schema import UNKNOWN
from finerank.data.storage import ColumnWriter, read_batch, write_columns
from finerank.data.vocabulary import Vocabulary, canonical
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from pathlib import Path

    from finerank.data.encoding import Encoding
    from finerank.data.schema import Feature, Home, Schema
    from finerank.data.tables import RawTables


def write_entities(
    rows: ibis.Table,
    home: Home,
    table: ibis.Table | None,
    tables: RawTables,
    schema: Schema,
    encodings: dict[str, Encoding],
    folder: Path,
    earlier: Path | None = None,
) -> Entities:
    """Write all users or items of the log and of their table, encoded; and open what is written.

    Args:
        rows: the log's.
        home: ``users`` or ``items``, the name of what is written below the folder.
        table: as `select_entities` gives it, where the recipe has one.
        earlier: a prepared data set whose users or items keep their rows, the new ones behind
            them; of one that the table doesn't list, the features stay as they are there.
    """
    old = None if earlier is None else Entities.load(earlier / home)
    features = [f for f in schema.features if f.home == home]
    ordered = _ordered(rows, home, table, old)
    with_id = _with_id(features, tables, home)
    for feature in with_id:  # an id that the table doesn't list is still itself
        name = f"feature.{feature.name}"
        ordered = ordered.set_column(ordered.schema.get_field_index(name), name, ordered["key"])
    index = {"key": Vocabulary(ordered["key"].combine_chunks()).values}
    if "title" in ordered.column_names:
        index["title"] = ordered["title"].combine_chunks()
        if old is not None and old.titles is not None:
            before = pa.concat_arrays([old.titles, pa.nulls(len(ordered), old.titles.type)])
            index["title"] = pc.coalesce(index["title"], before.slice(0, len(ordered)))
    write_columns(folder / home / "keys.arrow", pa.record_batch(index))
    if features:
        encoder = RowEncoder(encodings, users=None, items=None)
        unknown = pa.table(
            {name: pa.nulls(1, ordered.schema.field(name).type) for name in ordered.schema.names}
        )
        first, others = (
            {f.name: encoder.encode_feature(f.name, piece) for f in features}
            for piece in (unknown, ordered)
        )
        if earlier is not None and old is not None and home in tables.entities:
            unlisted = ordered["listed"].is_null().to_numpy()[: len(old.keys) - 1]
            before = read_batch(earlier / home / "features.arrow")
            for feature in features:
                if feature not in with_id:
                    column = before.column(feature.name)
                    others[feature.name] = _kept(others[feature.name], column, unlisted)
        types = pa.schema([(f.name, encodings[f.name].type) for f in features])
        with ColumnWriter(folder / home / "features.arrow", types) as writer:
            writer.append(first)
            writer.append(others)
    return Entities.load(folder / home)


def _ordered(
    rows: ibis.Table, home: Home, table: ibis.Table | None, old: Entities | None
) -> pa.Table:
    """The raw users or items in the order of their rows, from row 1 on.

    Columns are ``key``, and where there is a table those of it, and ``listed``, which is null for
    those that the table lacks.
    """
    keys = rows.select(key=rows[home[:-1]]).distinct()
    if table is not None:
        table = table.mutate(listed=ibis.literal(value=True))
        keys = keys.union(table.select("key"), distinct=True)
    keys = keys if old is None else _behind(old, keys)
    if table is not None:
        columns = [name for name in table.columns if name != "key"]
        keys = keys.left_join(table, "key").select(keys, *columns)
    return keys.order_by("key" if old is None else "place").to_pyarrow()


def _behind(old: Entities, keys: ibis.Table) -> ibis.Table:
    """The keys of the earlier users or items in their order, the new ones in order behind them."""
    found = keys.filter(keys.key.notnull()).order_by("key").to_pyarrow()["key"].combine_chunks()
    found = canonical(found)
    new = found.filter(pa.array(old.keys.encode(found) == UNKNOWN))
    joined = pa.concat_arrays([old.keys.values, new])
    return ibis.memtable(pa.table({"key": joined, "place": np.arange(len(joined))}))


def _kept(encoded: pa.Array, before: pa.Array, rows: np.ndarray) -> pa.Array:
    """Encoded values, but in the marked rows those of before, which has an unknown row first."""
    places, kept = np.arange(len(encoded)), np.flatnonzero(rows)
    places[kept] = len(encoded) + 1 + kept
    return pa.concat_arrays([encoded, before]).take(pa.array(places))


def check_keys(rows: ibis.Table, table: ibis.Table, home: Home) -> None:
    """Check that a table of users or items has the log's type of id, and each id once.

    Args:
        rows: the log's.
        table: as `select_entities` gives it.

    Raises:
        FinerankError: it hasn't, or it has no row.
    """
    if not table.limit(1).to_pyarrow().num_rows:
        raise FinerankError(f"{home}.path", expected="rows", found="an empty table")
    found, expected = table.key.type(), rows[home[:-1]].type()
    if found.copy(nullable=True) != expected.copy(nullable=True):
        raise FinerankError(
            f"{home}.key",
            expected=f"the type of log.{home[:-1]}, {expected}",
            found=str(found),
            fix="Cast one of them under derive.",
        )
    twice = table.group_by("key").agg(n=ibis._.count()).filter(ibis._.n > 1)
    example = twice.limit(1).to_pyarrow().to_pylist()
    if example:
        found = f"{example[0]['key']!r} in {example[0]['n']} rows"
        raise FinerankError(f"{home}.key", expected=f"one row for each of the {home}", found=found)


def _with_id(features: list[Feature], tables: RawTables, home: Home) -> list[Feature]:
    """Those features that are the id itself."""
    if home not in tables.entities:
        return []
    settings = tables.settings_of(home)
    return [f for f in features if tables.raw_column(f.name) == settings.key]
