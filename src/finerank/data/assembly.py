"""What `prepare` and `append` do alike: tables, users and items, new examples, the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finerank.data.ahead import made_ahead
from finerank.data.doubts import doubts_of_labels, doubts_of_tables, doubts_of_times
from finerank.data.engine import even_pieces
from finerank.data.entity_rows import select_entities
from finerank.data.entity_writer import write_entities
from finerank.data.list_columns import list_columns
from finerank.data.repeats import Repeats
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import ibis
    import pyarrow as pa

    from finerank.data.encoding import Encoding
    from finerank.data.engine import Engine
    from finerank.data.entities import Entities
    from finerank.data.example_writer import ExampleWriter
    from finerank.data.negatives import Negatives
    from finerank.data.schema import History, Home, Schema
    from finerank.data.tables import RawTables
    from finerank.data.usable import Usable
    from finerank.progress import Progress

_ROWS_A_PIECE = 500_000


def log_features(tables: RawTables) -> list[str]:
    """The features whose column is in the log, but for those that only ready-made lists hold."""
    recipe = tables.recipe
    return [
        name
        for name in recipe.features
        if tables.home_of(name) == "log" and not recipe.only_listed(name)
    ]


def kept_entities(tables: RawTables, engine: Engine) -> dict[Home, ibis.Table]:
    """The tables of users and items, read once."""
    return {
        home: engine.keep(home, engine.load(home, select_entities(tables, home), tables.sources))
        for home in tables.entities
    }


def encode_entities(
    rows: ibis.Table,
    kept: Mapping[Home, ibis.Table],
    tables: RawTables,
    schema: Schema,
    encodings: dict[str, Encoding],
    folder: Path,
    earlier: Path | None = None,
) -> dict[Home, Entities]:
    """Users and items, where the log names them, written by `write_entities`.

    Args:
        rows: the log's usable ones.
        kept: as `kept_entities` gives them.
        earlier: the prepared data set that rows are appended to.
    """
    homes: tuple[Home, ...] = ("users", "items")
    return {
        home: write_entities(rows, home, kept.get(home), tables, schema, encodings, folder, earlier)
        for home in homes
        if getattr(tables.recipe.log, home[:-1]) is not None
    }


def write_examples(
    writer: ExampleWriter,
    usable: Usable,
    tables: RawTables,
    schema: Schema,
    engine: Engine,
    progress: Progress,
) -> Repeats:
    """Write the examples of all splits, and count those that repeat another."""
    rows, repeats = usable.rows, Repeats()
    context = [f"feature.{f.name}" for f in schema.request_features if f.home == "log"]
    keys = ["user", "time", *context, *list_columns(tables.recipe), "item"]
    with progress("building requests", sum(usable.sizes.values())) as advance:
        for index, split in enumerate(SPLITS):
            part = rows.filter(rows.split == index)
            part = part.drop("split", *(f"enters.{h.name}" for h in schema.event_histories))
            for piece in in_order(engine, part, keys):
                writer.add_examples(split, piece)
                if {"user", "item", "time"} <= {*rows.columns}:
                    repeats.add(piece)
                advance(piece.num_rows)
            writer.end_examples(split)
        writer.end_lists()
    return repeats


def entering(rows: ibis.Table, history: History, schema: Schema) -> ibis.Table:
    """The rows that enter a history, and of them what its store takes."""
    own = (f"feature.{f.name}" for f in schema.event_features(history))
    names = ["user", "time", "item", *own]
    rows = rows.filter(rows[f"enters.{history.name}"])
    return rows.select(*(name for name in names if name in rows.columns))


def in_order(engine: Engine, rows: ibis.Table, keys: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows in order of the given columns, piece by piece; ties in order of all the others."""
    if "user" in rows.columns and "time" in rows.columns:
        first = [key for key in keys if key in rows.columns]
        rest = [name for name in rows.columns if name not in first]
        rows = engine.ordered(rows, [*first, *rest])
    pieces = rows.to_pyarrow_batches(chunk_size=_ROWS_A_PIECE)
    yield from made_ahead(even_pieces(pieces, _ROWS_A_PIECE), ahead=1)


def report_of_rows(usable: Usable, repeats: Repeats) -> dict[str, Any]:
    """What the report says of the rows that were read."""
    report = {
        "rows_in": sum(usable.sizes.values()) + sum(usable.dropped.values()),
        "rows_dropped": usable.dropped,
        "rows": usable.sizes,
        "rows_repeated": repeats.count,
        "negatives_kept": usable.negatives_kept,
    }
    if usable.negatives_counted:
        report["negatives_counted"] = usable.negatives_counted
    return report


def report_of_set(
    writer: ExampleWriter,
    schema: Schema,
    entities: Mapping[Home, Entities],
    negatives: Negatives | None,
) -> dict[str, Any]:
    """What the report says of the data set that was written."""
    sizes = {home: len(each.keys) - 1 for home, each in entities.items()}
    report = {
        "requests": writer.requests,
        "events": writer.events,
        "users": sizes.get("users", 0),
        "items": sizes.get("items", 0),
        "vocabulary": {f.name: f.size - 1 for f in schema.features if f.space},
        "unknown_rate": writer.unknown_rates(),
        "label_rate": writer.label_rates(),
    }
    if negatives is not None:
        report |= {"negatives": negatives.drawn, "negatives_lacking": negatives.lacking}
    return report


def doubts(
    writer: ExampleWriter, rows: ibis.Table, kept: Mapping[Home, ibis.Table], tables: RawTables
) -> list[str]:
    """What the report warns of.

    Args:
        rows: the log's usable ones.
        kept: as `kept_entities` gives them.
    """
    return [
        *doubts_of_times(rows),
        *doubts_of_tables(rows, kept, tables),
        *doubts_of_labels(writer.label_rates()),
    ]
