"""Users and items on their way to disk: their ids in order, their features encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finerank.data.entities import Entities
from finerank.data.rows import RowEncoder, as_id
from finerank.data.storage import ColumnWriter, read_batch, write_columns
from finerank.data.vocabulary import UNKNOWN, Vocabulary, canonical
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from pathlib import Path

    from finerank.data.encoding import Encoding
    from finerank.data.schema import Feature, Home, Schema
    from finerank.data.tables import RawTables
    from finerank.recipe import Recipe
    from finerank.settings import EntityTableSettings


def write_entities(
    rows: ibis.Table,
    home: Home,
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
        earlier: a prepared data set whose users or items keep their rows, the new ones behind
            them; of one that the table doesn't list, the features stay as they are there.
    """
    old = None if earlier is None else Entities.load(earlier / home)
    features = [f for f in schema.features if f.home == home]
    ordered = _ordered(rows, home, tables, features, old)
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
    rows: ibis.Table, home: Home, tables: RawTables, features: list[Feature], old: Entities | None
) -> pa.Table:
    """The raw users or items in the order of their rows, from row 1 on.

    Columns are ``key``, and where there is a table ``feature.NAME``, ``title``, and ``listed``,
    which is null for those that the table lacks.
    """
    keys = rows.select(key=rows[home[:-1]]).distinct()
    if home not in tables.entities:
        keys = keys if old is None else _behind(old, keys)
        return keys.order_by("key" if old is None else "place").to_pyarrow()
    columns: dict[str, ibis.Value] = {"listed": ibis.literal(value=True)}
    settings = _settings(tables.recipe, home)
    table = tables.entities[home]
    key = as_id(table[settings.key], f"{home}.key")
    for feature in features:
        column = table[tables.raw_column(feature.name)]
        is_id = feature.type in ("id", "ids")
        where = f"features.{feature.name}"
        columns[f"feature.{feature.name}"] = as_id(column, where) if is_id else column
    if settings.title is not None:
        columns["title"] = table[settings.title].cast("string")
    table = table.select(key=key, **columns).filter(ibis._.key.notnull())
    keys = keys.union(table.select("key"), distinct=True)
    keys = keys if old is None else _behind(old, keys)
    joined = keys.left_join(table, "key").select(keys, *columns)
    return joined.order_by("key" if old is None else "place").to_pyarrow()


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


def check_keys(rows: ibis.Table, tables: RawTables, home: Home) -> None:
    """Check that a table of users or items has the log's type of id, and each id once.

    Raises:
        FinerankError: it hasn't, or it has no row.
    """
    table, settings = tables.entities[home], _settings(tables.recipe, home)
    if not table.select(one=ibis.literal(1)).limit(1).to_pyarrow().num_rows:
        raise FinerankError(f"{home}.path", expected="rows", found="an empty table")
    key = as_id(table[settings.key], f"{home}.key")
    found, expected = key.type(), rows[home[:-1]].type()
    if found.copy(nullable=True) != expected.copy(nullable=True):
        raise FinerankError(
            f"{home}.key",
            expected=f"the type of log.{home[:-1]}, {expected}",
            found=str(found),
            fix="Cast one of them under derive.",
        )
    table = table.select(key=key).filter(ibis._.key.notnull())
    twice = table.group_by("key").agg(n=ibis._.count()).filter(ibis._.n > 1)
    example = twice.limit(1).to_pyarrow().to_pylist()
    if example:
        found = f"{example[0]['key']!r} in {example[0]['n']} rows"
        raise FinerankError(f"{home}.key", expected=f"one row for each of the {home}", found=found)


def _settings(recipe: Recipe, home: Home) -> EntityTableSettings:
    settings = recipe.users if home == "users" else recipe.items
    assert settings is not None
    return settings


def _with_id(features: list[Feature], tables: RawTables, home: Home) -> list[Feature]:
    """Those features that are the id itself."""
    if home not in tables.entities:
        return []
    key = _settings(tables.recipe, home).key
    return [f for f in features if tables.raw_column(f.name) == key]
