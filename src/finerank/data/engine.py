"""The engine that joins, sorts and groups the tables: DuckDB here, or Spark."""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING, Any, Literal, Protocol

import duckdb
import ibis
import pyarrow as pa

from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from ibis.backends.duckdb import Backend

    from finerank.data.files import Source

EngineName = Literal["duckdb", "spark"]
_LONGEST = 500  # characters of an engine's message
_OWN_BYTES = 10**9  # for Python, its libraries, rows in hand, and what DuckDB takes too much


class Engine(Protocol):
    """What preparation asks of an engine.

    Attributes:
        raw: the DuckDB in which raw files are opened, whatever the engine: files are read, and the
            recipe's SQL is understood, in one way only.
    """

    raw: Backend

    def load(self, name: str, table: ibis.Table, sources: Mapping[str, Source]) -> ibis.Table:
        """A table of ``raw`` as one of this engine.

        Args:
            name: of what is loaded; there is none yet.
            table: each row of it follows from one row of a raw table.
            sources: what the raw tables are read from.
        """

    def keep(self, name: str, table: ibis.Table) -> ibis.Table:
        """A table with its rows computed, to be asked again and again."""

    def per_row(self, table: ibis.Table, change: Callable[[ibis.Table], ibis.Table]) -> ibis.Table:
        """A table changed row by row, as DuckDB does it: texts of numbers differ elsewhere."""

    def ordered(self, table: ibis.Table, columns: list[str]) -> ibis.Table:
        """A table in order of its columns; nulls come last, in lists too."""


class DuckDb:
    """DuckDB, which has the raw tables at hand."""

    def __init__(self, raw: Backend) -> None:
        self.raw = raw

    def load(self, name: str, table: ibis.Table, sources: Mapping[str, Source]) -> ibis.Table:  # noqa: ARG002
        """The table as it is; its files are read where it is asked."""
        return table

    def keep(self, name: str, table: ibis.Table) -> ibis.Table:
        """A table with its rows computed."""
        return self.raw.create_table(name, table)

    def per_row(self, table: ibis.Table, change: Callable[[ibis.Table], ibis.Table]) -> ibis.Table:
        """A table changed row by row."""
        return change(table)

    def ordered(self, table: ibis.Table, columns: list[str]) -> ibis.Table:
        """A table in order of its columns."""
        return table.order_by(columns)


@contextlib.contextmanager
def open_engine(
    folder: Path,
    memory: str | None,
    engine: EngineName = "duckdb",
    spark_master: str | None = None,
) -> Iterator[Engine]:
    """An engine with its files in a folder of its own, which is gone in the end.

    Args:
        folder: there is none of that name yet.
        memory: what the process may use, such as 2GB: DuckDB spills to the folder before it does,
            the mapped pages of files not counted; of Spark, the heap of its driver.
        engine: which one.
        spark_master: where Spark runs; as Spark is configured if left out.

    Raises:
        FinerankError: not an amount, or too little; or a value of the tables that SQL can't take;
            or Spark isn't there, or failed.
    """
    if memory is not None and not re.fullmatch(r"\d+(\.\d+)?[MG]B", memory):
        raise FinerankError("memory", expected="an amount such as 512MB or 2GB", found=repr(memory))
    if engine not in ("duckdb", "spark"):
        raise FinerankError("engine", expected="duckdb or spark", found=repr(engine))
    if engine == "duckdb" and spark_master is not None:
        raise FinerankError("spark_master", expected="engine spark beside it", found="duckdb")
    folder.mkdir()
    try:
        with _duckdb(folder, memory if engine == "duckdb" else None) as raw:
            if engine == "duckdb":
                yield DuckDb(raw)
                return
            from finerank.data.spark_session import spark_session  # noqa: PLC0415

            with spark_session(folder, memory, spark_master) as session:
                from finerank.data.spark import opened_spark  # noqa: PLC0415  (an extra)

                with opened_spark(raw, session, folder) as spark:
                    yield spark
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _duckdb(folder: Path, memory: str | None) -> Iterator[Backend]:
    # the order of a table's rows is never relied on, and keeping it costs memory
    options: dict[str, Any] = {"preserve_insertion_order": False}
    options |= {} if memory is None else {"memory_limit": f"{_for_duckdb(memory)}B"}
    spill = str(folder / "spill")
    tables = ":memory:" if memory is None else folder / "tables.duckdb"
    engine = ibis.duckdb.connect(tables, temp_directory=spill, **options)
    try:
        yield engine
    except duckdb.OutOfMemoryException as error:
        raise FinerankError(
            "memory",
            expected="enough to sort and group the log",
            found=" ".join(str(error).partition("\n\n")[0].split()),
            fix="Allow more; the engine has more use of it than other steps.",
        ) from error
    except duckdb.Error as error:
        raise unreadable(error) from error
    finally:
        engine.disconnect()


def _for_duckdb(memory: str) -> int:
    """The bytes of an amount that are left for DuckDB; at least half."""
    bytes_ = float(memory[:-2]) * {"MB": 10**6, "GB": 10**9}[memory[-2:]]
    return int(max(bytes_ / 2, bytes_ - _OWN_BYTES))


def even_pieces(pieces: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Pieces of as many rows each, the last may have fewer, however an engine cuts its answer.

    What is drawn a piece at a time would depend on it.
    """
    held: list[pa.RecordBatch] = []
    count = 0
    for piece in pieces:
        start = 0
        while count + piece.num_rows - start >= rows:
            taken = rows - count
            yield _joined([*held, piece.slice(start, taken)])
            held, count, start = [], 0, start + taken
        if start < piece.num_rows:
            held.append(piece.slice(start))
            count += piece.num_rows - start
    if held:
        yield _joined(held)


def _joined(pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(pieces) == 1:
        return pieces[0]
    return pa.Table.from_batches(pieces).combine_chunks().to_batches()[0]


def told(error: Exception | str) -> str:
    """What an engine says is wrong, on one line, without its advice on options of its own."""
    text, file = str(error), re.search(r"\n  file = (.*)", str(error))
    text = re.split(r"\n\s*\n|\nPossible |\n\* |If you are trying|\nThe search space", text)[0]
    text = " ".join(re.sub(r"^(Invalid Input Error|Conversion Error): ", "", text).split())
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return f"{text} ({file[1]})" if file else text


def unreadable(message: Exception | str) -> FinerankError:
    """What DuckDB says of a value that it can't read, or can't compute with."""
    return FinerankError(
        "the recipe's tables",
        expected="values that can be read, and that its SQL can take",
        found=told(message),
        fix="Is every file whole? If a column of a CSV is taken for another type, write it as "
        "Parquet.",
    )
