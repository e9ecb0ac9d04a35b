"""Users and items on their way to disk: their ids in order, their features encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis
import pyarrow as pa

from finerank.data.entities import Entities
from finerank.data.rows import RowEncoder, as_id
from finerank.data.storage import ColumnWriter, write_columns
from finerank.data.vocabulary import Vocabulary
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
) -> Entities:
    """Write all users or items of the log and of their table, encoded; and open what is written.

    Args:
        rows: the log's.
        home: ``users`` or ``items``, the name of what is written below the folder.
    """
    side = home[:-1]
    keys = rows.select(key=rows[side]).distinct()
    columns: dict[str, ibis.Value] = {}
    features = [f for f in schema.features if f.home == home]
    title = None
    if home in tables.entities:
        settings = _settings(tables.recipe, home)
        table = tables.entities[home]
        key = as_id(table[settings.key], f"{home}.key")
        for feature in features:
            column = table[tables.raw_column(feature.name)]
            is_id = feature.type in ("id", "ids")
            where = f"features.{feature.name}"
            columns[f"feature.{feature.name}"] = as_id(column, where) if is_id else column
        if settings.title is not None:
            title = "title"
            columns["title"] = table[settings.title].cast("string")
        table = table.select(key=key, **columns).filter(ibis._.key.notnull())
        keys = keys.union(table.select("key"), distinct=True)
        joined = keys.left_join(table, "key").select(keys.key, *columns)
    else:
        joined = keys
    ordered = joined.order_by("key").to_pyarrow()
    vocabulary = Vocabulary(ordered["key"].combine_chunks())
    with_id = _with_id(features, tables, home)
    for feature in with_id:  # an id that the table doesn't list is still itself
        name = f"feature.{feature.name}"
        ordered = ordered.set_column(ordered.schema.get_field_index(name), name, ordered["key"])
    index = {"key": vocabulary.values}
    if title is not None:
        index["title"] = ordered["title"].combine_chunks()
    write_columns(folder / home / "keys.arrow", pa.record_batch(index))
    if features:
        _write_features(ordered, folder / home / "features.arrow", features, encodings)
    return Entities.load(folder / home)


def _write_features(
    rows: pa.Table, path: Path, features: list[Feature], encodings: dict[str, Encoding]
) -> None:
    encoder = RowEncoder(encodings, users=None, items=None)
    schema = pa.schema([(f.name, encodings[f.name].type) for f in features])
    unknown = pa.table(
        {name: pa.nulls(1, rows.schema.field(name).type) for name in rows.schema.names}
    )
    with ColumnWriter(path, schema) as writer:
        for piece in (unknown, rows):
            writer.append({f.name: encoder.encode_feature(f.name, piece) for f in features})


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
