"""Raw rows to be scored, and logs of what users did: opened, derived, under our own names."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import duckdb
import ibis
import pyarrow as pa

from finerank.data.files import open_table
from finerank.data.list_columns import list_columns
from finerank.data.past import derivable
from finerank.data.paths import told_kind
from finerank.data.tables import check_sql
from finerank.errors import FinerankError, did_you_mean
from finerank.settings import FileSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from finerank.data.schema import Schema
    from finerank.recipe import Recipe

_ROWS_A_PIECE = 100_000


class RawRows:
    """Reads tables with the columns of a recipe's log."""

    def __init__(self, recipe: Recipe, schema: Schema) -> None:
        self.recipe, self.schema = recipe, schema
        self._features = [f for f in schema.features if f.home == "log" and f.side != "history"]
        self._engine = ibis.duckdb.connect()

    def pieces(self, rows: str | Path | pa.Table) -> Iterator[pa.Table]:
        """The rows of a file, a folder, a pattern or an Arrow table, piece by piece."""
        if isinstance(rows, pa.Table):
            yield rows
            return
        table = self._open(str(rows), "rows")
        for batch in table.to_pyarrow_batches(chunk_size=_ROWS_A_PIECE):
            yield pa.Table.from_batches([batch])

    @contextlib.contextmanager
    def opened(self, table: str | Path | pa.Table, where: str) -> Iterator[ibis.Table]:
        """A table in the engine, for as long as it is needed."""
        arrow = isinstance(table, pa.Table)
        name = ibis.util.gen_name(where)
        if arrow:
            self._engine.con.register(name, table)
        try:
            yield self._engine.table(name) if arrow else self._open(str(table), where)
        except duckdb.Error as error:
            found = " ".join(str(error).partition("\n\n")[0].split())
            raise FinerankError(
                where, expected="values that the recipe's SQL can take", found=found
            ) from error
        finally:
            if arrow:
                self._engine.con.unregister(name)

    def _open(self, path: str, where: str) -> ibis.Table:
        """Files, read as those of the log are, as far as their endings don't tell otherwise."""
        log, kind = self.recipe.log, told_kind(path, where)
        settings = FileSettings(
            format=log.format if kind is None else None,
            **{
                name: getattr(log, name)
                for name in ("columns", "separator", "encoding")
                if kind in ("csv", None)
            },
        )
        return open_table(self._engine, path, where, settings, self.recipe.id_columns("log"))

    def named(self, raw: pa.Table) -> pa.Table:
        """Raw rows under our own names, with what the recipe derives."""
        log, recipe = self.recipe.log, self.recipe
        roles = {"item": log.item, "user": log.user}
        wanted = {r: c for r, c in roles.items() if c is not None}
        wanted |= {f"feature.{f.name}": recipe.column_of(f.name) for f in self._features}
        wanted |= list_columns(recipe)
        of_time = {c: sql for c, sql in log.derive.items() if c == log.time}
        times = (*raw.column_names, *derivable(of_time, raw.column_names))
        if log.time is not None and log.time in times:
            wanted["time"] = log.time
        missing = set(wanted.values()).difference(raw.column_names)
        if derived := {c: sql for c, sql in log.derive.items() if c in missing}:
            raw = self._with_derived(raw, derived)
        if "time" in wanted and raw[log.time].null_count == raw.num_rows:
            del wanted["time"]
        if "time" in wanted:
            self._check_time(raw[log.time].type)
        for name, column in wanted.items():
            if column not in raw.column_names:
                raise FinerankError(
                    "rows",
                    expected=f"a column {column!r} (for {name})",
                    found="none",
                    fix=did_you_mean(column, raw.column_names),
                )
        return pa.table({name: raw[column].combine_chunks() for name, column in wanted.items()})

    def _with_derived(self, raw: pa.Table, derived: Mapping[str, str]) -> pa.Table:
        """Rows with further columns; straight to the engine, since a served call can't wait."""
        for name, sql in derived.items():
            check_sql(sql, tuple(raw.column_names), f"log.derive.{name}")
        selected = ", ".join(f'({sql}\n) AS "{name}"' for name, sql in derived.items())
        with self._engine.con.cursor() as cursor:  # another query would end a stream of rows
            cursor.register("raw", raw)
            try:
                added = cursor.sql(f"SELECT {selected} FROM raw").to_arrow_table()  # noqa: S608
            except duckdb.Error as error:
                raise FinerankError(
                    f"log.derive {', '.join(derived)}",
                    expected="values that its SQL can take",
                    found=" ".join(str(error).partition("\n\n")[0].split()),
                ) from error
        for name in added.column_names:
            raw = raw.append_column(name, added[name])
        return raw

    def _check_time(self, kind: pa.DataType) -> None:
        """Check that times are of the log's kind: a date would be after every number."""
        number = (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        )
        if number != (self.schema.time == "number"):
            expected = "a number" if self.schema.time == "number" else "a date or a time"
            raise FinerankError("time", expected=f"{expected}, as in the log", found=str(kind))
