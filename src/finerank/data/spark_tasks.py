"""What the tasks of Spark run: DuckDB over one file, or over one batch of rows.

Sent to the executors as it stands here, so that they need duckdb and pyarrow, and no finerank.
Functions take and give iterators of Arrow batches, as ``DataFrame.mapInArrow`` wants them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Batches = Iterator[pa.RecordBatch]

_ROWS_A_PIECE = 50_000


class Raw(NamedTuple):
    """A raw table: as `Source` in `finerank.data.files`, with what DuckDB found in all its files.

    Attributes:
        types: column -> its type in DuckDB's words.
        schema: of Arrow files.
    """

    kind: str
    files: list[str]
    options: dict[str, str | bool]
    types: dict[str, str]
    schema: pa.Schema


def reader(raws: dict[str, Raw], query: str, schema: pa.Schema) -> Callable[[Batches], Batches]:
    """What answers a query over raw tables one file at a time.

    A row that comes in is the number of a file: of the first table's files, then of the next.

    Args:
        raws: the raw tables by the names that the query has for them.
        query: each row of its answer follows from one row of a raw table.
        schema: of its answer.
    """
    tasks = [(name, file) for name, raw in raws.items() for file in raw.files]

    def read(batches: Batches) -> Batches:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                name, file = tasks[number]
                with _connected() as engine:
                    for each, raw in raws.items():
                        _open(engine, each, raw, file if each == name else None)
                    yield from _answer(engine, query, schema)

    return read


def changer(query: str, columns: list[str], schema: pa.Schema) -> Callable[[Batches], Batches]:
    """What answers a query over the table ``rows`` one batch at a time.

    Args:
        query: each row of its answer follows from one row.
        columns: of the rows that come in.
        schema: of its answer.
    """

    def change(batches: Batches) -> Batches:
        with _connected() as engine:
            for batch in batches:
                engine.register("rows", pa.table(batch).rename_columns(columns))
                yield from _answer(engine, query, schema)

    return change


def _connected() -> duckdb.DuckDBPyConnection:
    engine = duckdb.connect(config={"threads": 1})
    engine.execute("SET TimeZone = 'UTC'")
    return engine


def _answer(engine: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema) -> Batches:
    for piece in engine.execute(query).fetch_record_batch(_ROWS_A_PIECE):
        yield piece.cast(schema)


def _open(engine: duckdb.DuckDBPyConnection, name: str, raw: Raw, file: str | None) -> None:
    """Open one file of a raw table under the table's name, with the table's columns and types."""
    if file is None:
        columns = ", ".join(f"NULL::{kind} AS {_quoted(c)}" for c, kind in raw.types.items())
        relation = f"(SELECT {columns} WHERE false)"
    elif raw.kind == "arrow":
        engine.register(name, pyarrow.dataset.dataset([file], schema=raw.schema, format="ipc"))
        return
    elif raw.kind == "json":
        relation = f"read_json([{_text(file)}], columns = {_struct(raw.types)})"
    elif raw.kind == "csv":
        options = "".join(f", {name} = {_value(value)}" for name, value in raw.options.items())
        columns, types = ", ".join(map(_quoted, raw.types)), _struct(raw.types)
        relation = f"(SELECT {columns} FROM read_csv([{_text(file)}]{options}, types = {types}))"  # noqa: S608
    else:
        columns = ", ".join(
            f"{_quoted(c)}::{kind} AS {_quoted(c)}" for c, kind in raw.types.items()
        )
        relation = f"(SELECT {columns} FROM read_parquet([{_text(file)}]))"  # noqa: S608
    engine.execute(f"CREATE TEMP VIEW {_quoted(name)} AS SELECT * FROM {relation}")  # noqa: S608


def _struct(types: dict[str, str]) -> str:
    return "{" + ", ".join(f"{_text(c)}: {_text(kind)}" for c, kind in types.items()) + "}"


def _value(value: Any) -> str:  # noqa: ANN401
    return str(value).lower() if isinstance(value, bool) else _text(value)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
