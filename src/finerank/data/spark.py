"""Preparation on Spark, through Ibis: the joins, windows, sorts and groups of the whole log.

What is said of one row (reading a file, the recipe's SQL, the text of a number) DuckDB does, in
tasks of Spark, so that it means the same. Tables are Parquet files in the engine's folder, which
the driver and the executors share as they share the raw files.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING, Any

import ibis
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import sqlglot
from ibis.backends.pyspark import Backend
from ibis.expr import datatypes, operations
from pyspark import StorageLevel, cloudpickle
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from sqlglot import expressions

from finerank.data import spark_tasks
from finerank.data.spark_tasks import Raw, changer, reader
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ibis.backends.duckdb import Backend as DuckDbBackend
    from pyspark.sql import DataFrame, SparkSession

    from finerank.data.files import Source

cloudpickle.register_pickle_by_value(spark_tasks)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def opened_spark(raw: DuckDbBackend, session: SparkSession, folder: Path) -> Iterator[Spark]:
    """Spark with its tables in a folder."""
    spark = Spark(raw, session, folder)
    try:
        yield spark
    finally:
        spark.close()


class Spark:
    """The engine of that name; see `Engine` for what its methods promise."""

    def __init__(self, raw: DuckDbBackend, session: SparkSession, folder: Path) -> None:
        self.raw, self.session, self.folder = raw, session, folder
        ArrowBackend.register_options()  # a backend made by hand lacks them
        self.backend = ArrowBackend().connect(session)
        self.backend.folder = folder
        self._changed: list[DataFrame] = []

    def load(self, name: str, table: ibis.Table, sources: Mapping[str, Source]) -> ibis.Table:
        """A table of raw files, read by one task a file.

        Raises:
            FinerankError: a value of it follows from several rows.
        """
        table = table.cast(
            {n: kind for n, old in table.schema().items() if (kind := _for_spark(old)) != old}
        )
        query = self.raw.compile(table)
        if window := sqlglot.parse_one(query, read="duckdb").find(expressions.Window):
            raise FinerankError(
                "engine spark",
                expected="SQL over a row's own columns in the recipe",
                found=window.sql(dialect="duckdb"),
                fix="Use the engine duckdb, or derive it before.",
            )
        raws = {
            each.name: self._raw(each.name, sources[each.name])
            for each in table.op().find(operations.DatabaseTable)
        }
        schema = from_arrow_schema(self._schema(query))
        files = sum(len(raw.files) for raw in raws.values())
        read = reader(raws, query, to_arrow_schema(schema, timezone="UTC"))
        numbers = self.session.range(0, files, 1, numPartitions=files)
        return self._written(name, numbers.mapInArrow(read, schema))

    def keep(self, name: str, table: ibis.Table) -> ibis.Table:
        """A table with its rows computed."""
        if isinstance(table.op(), operations.DatabaseTable):
            return table
        return self._written(name, self.backend.frame(table))

    def per_row(self, table: ibis.Table, change: Callable[[ibis.Table], ibis.Table]) -> ibis.Table:
        """A table changed row by row, in DuckDB."""
        frame = self.backend.frame(table)
        changed = change(ibis.table(table.schema(), name="rows"))
        query = ibis.to_sql(changed, dialect="duckdb")
        old, new = table.schema(), changed.schema()
        fields = {f.name: f for f in to_arrow_schema(frame.schema, timezone="UTC")}
        schema = from_arrow_schema(
            pa.schema(
                [fields[f.name] if old.get(f.name) == new[f.name] else f for f in new.to_pyarrow()]
            )
        )
        change_batches = changer(query, frame.columns, to_arrow_schema(schema, timezone="UTC"))
        # mapInArrow takes a dot in a name for a field of a struct
        plain = frame.toDF(*(f"c{number}" for number in range(len(frame.columns))))
        answer = plain.mapInArrow(change_batches, schema).persist(StorageLevel.DISK_ONLY)
        self._changed.append(answer)
        return self._named(ibis.util.gen_name("changed"), answer)

    def ordered(self, table: ibis.Table, columns: list[str]) -> ibis.Table:
        """A table in order of its columns; nulls come last, in lists too."""
        return table.order_by(
            [_nulls_last(table[c]) if table[c].type().is_array() else c for c in columns]
        )

    def close(self) -> None:
        """Forget what is cached; the session may be of somebody who goes on with it."""
        for frame in self._changed:
            frame.unpersist()

    def _raw(self, name: str, source: Source) -> Raw:
        described = self.raw.con.execute(f'DESCRIBE SELECT * FROM "{name}"').fetchall()  # noqa: S608
        return Raw(
            kind=source.kind,
            files=source.files,
            options=source.options,
            types={column: kind for column, kind, *_ in described},
            schema=source.schema,
        )

    def _schema(self, query: str) -> pa.Schema:
        """Of a query's answer, without asking it."""
        return self.raw.con.execute(f"SELECT * FROM ({query}) LIMIT 0").fetch_record_batch().schema  # noqa: S608

    def _written(self, name: str, frame: DataFrame) -> ibis.Table:
        path = f"file://{self.folder / name}"
        frame.write.parquet(path)
        literal = re.sub(r"([\\*?{}\[\]])", r"\\\1", path)
        return self._named(name, self.session.read.schema(frame.schema).parquet(literal))

    def _named(self, name: str, frame: DataFrame) -> ibis.Table:
        frame.createOrReplaceTempView(name)
        return self.backend.table(name)


class ArrowBackend(Backend):  # type: ignore[misc]
    """Ibis over PySpark with Arrow in and out: by way of pandas it loses types and memory.

    Attributes:
        folder: for answers on their way.
    """

    folder: Path

    def frame(self, expr: ibis.Expr) -> DataFrame:
        """What a query gives, as a frame of Spark."""
        self._run_pre_execute_hooks(expr)
        return self._session.sql(self.compile(expr.as_table()))

    def to_pyarrow(self, expr: ibis.Expr, /, **_: Any) -> Any:  # noqa: ANN401
        """The answer as a whole."""
        return expr.__pyarrow_result__(self.frame(expr).toArrow())

    def to_pyarrow_batches(
        self,
        expr: ibis.Expr,
        /,
        *,
        chunk_size: int = 1_000_000,
        **_: Any,  # noqa: ANN401
    ) -> pa.RecordBatchReader:
        """The answer piece by piece and in its order: written by the executors, read here."""
        frame = self.frame(expr)
        schema = to_arrow_schema(frame.schema, timezone="UTC")
        folder = self.folder / ibis.util.gen_name("answer")
        frame.write.parquet(f"file://{folder}")
        return pa.RecordBatchReader.from_batches(schema, _pieces(folder, schema, chunk_size))

    def _register_in_memory_table(self, op: operations.InMemoryTable) -> None:
        table = op.data.to_pyarrow(op.schema)
        self._session.createDataFrame(table).createOrReplaceTempView(op.name)


def _pieces(folder: Path, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
    try:
        parts = folder.glob("part-*.parquet")
        for part in sorted(parts, key=lambda part: int(part.name.split("-")[1])):
            with pq.ParquetFile(part) as file:
                for piece in file.iter_batches(rows):
                    yield piece.cast(schema)
    finally:
        shutil.rmtree(folder)


def _for_spark(kind: datatypes.DataType) -> datatypes.DataType:
    """The type that Spark has for one of DuckDB's; itself where both have it."""
    wider = {1: datatypes.int16, 2: datatypes.int32, 4: datatypes.int64}
    if kind.is_unsigned_integer():
        return wider.get(kind.nbytes, datatypes.Decimal(20, 0))
    if kind.is_timestamp():
        return datatypes.Timestamp(timezone=kind.timezone, scale=6)
    if kind.is_null():
        return datatypes.int32
    if kind.is_json() or kind.is_uuid() or kind.is_time():
        return datatypes.string
    if kind.is_array():
        return datatypes.Array(_for_spark(kind.value_type))
    return kind


def _nulls_last(lists: ibis.expr.types.ArrayValue) -> ibis.expr.types.ArrayValue:
    """Lists that are in order as those given, but with nulls after all values."""
    return lists.map(lambda each: ibis.struct({"missing": each.isnull(), "value": each}))
