"""Users and items on their way to disk: their ids in order, their features encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis
import pyarrow as pa

from finerank.data.entities import Entities
from finerank.data.rows import RowEncoder
from finerank.data.storage import ColumnWriter, write_columns
from finerank.data.vocabulary import Vocabulary
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
) -> Entities:
    """Write all users or items of the log and of their table, encoded; and open what is written.

    Args:
        rows: the log's.
        home: ``users`` or ``items``, the name of what is written below the folder.
        table: as `select_entities` gives it, where the recipe has one.
    """
    side = home[:-1]
    keys = rows.select(key=rows[side]).distinct()
    features = [f for f in schema.features if f.home == home]
    joined = keys
    if table is not None:
        keys = keys.union(table.select("key"), distinct=True)
        columns = [name for name in table.columns if name != "key"]
        joined = keys.left_join(table, "key").select(keys.key, *columns)
    ordered = joined.order_by("key").to_pyarrow()
    vocabulary = Vocabulary(ordered["key"].combine_chunks())
    with_id = _with_id(features, tables, home)
    for feature in with_id:  # an id that the table doesn't list is still itself
        name = f"feature.{feature.name}"
        ordered = ordered.set_column(ordered.schema.get_field_index(name), name, ordered["key"])
    index = {"key": vocabulary.values}
    if "title" in ordered.column_names:
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
