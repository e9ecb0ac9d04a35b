"""The raw tables of a recipe, opened in an engine, and every column it names looked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import ibis
import sqlglot
from ibis.expr import datatypes
from sqlglot import expressions

from finerank.data.files import Source, open_table
from finerank.data.list_columns import check_lists
from finerank.errors import FinerankError, did_you_mean
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ibis.backends.duckdb import Backend

    from finerank.data.schema import Home
    from finerank.recipe import Recipe
    from finerank.settings import EntityTableSettings

SPLIT_COLUMN = "finerank.split"  # of a log whose files are given per split


class Sql(NamedTuple):
    """An SQL expression of the recipe, and the key that holds it."""

    text: str
    where: str


def log_sql(recipe: Recipe) -> dict[str, Sql]:
    """What the recipe says of a log's rows in SQL, under our names for it.

    The label of a task with ``event`` is null; what followed makes it.
    """
    sql = {
        f"label.{name}": Sql(task.label or "NULL", f"tasks.{name}")
        for name, task in recipe.tasks.items()
    }
    for name, history in recipe.event_histories.items():
        sql[f"enters.{name}"] = Sql(history.where or "TRUE", f"histories.{name}.where")
    if recipe.log.examples is not None:
        sql["example"] = Sql(recipe.log.examples, "log.examples")
    return sql


def with_columns(table: ibis.Table, columns: Mapping[str, str], where: str) -> ibis.Table:
    """The table with further columns, each given by an SQL expression over the others.

    Args:
        where: the recipe's key that holds them.

    Raises:
        FinerankError: as `with_sql`.
    """
    return with_sql(table, {name: Sql(text, f"{where}.{name}") for name, text in columns.items()})


def with_sql(table: ibis.Table, columns: Mapping[str, Sql]) -> ibis.Table:
    """The table with further columns, each given by an SQL expression over the others.

    Raises:
        FinerankError: an expression isn't SQL, names a column that isn't there, or doesn't type;
            or there is a column of that name already.
    """
    if not columns:
        return table
    taken = {name.lower() for name in table.columns}
    for name, sql in columns.items():
        check_sql(sql.text, table.columns, sql.where)
        if name.lower() in taken:
            raise FinerankError(
                sql.where,
                expected="a new column's name",
                found=f"{name!r}, which is a column already",
                fix="Choose another name.",
            )
        taken.add(name.lower())
    selected = ", ".join(f'({sql.text}\n) AS "{name}"' for name, sql in columns.items())
    try:
        name = ibis.util.gen_name("raw")  # a name twice in one query is an error
        return table.alias(name).sql(f'SELECT *, {selected} FROM "{name}"', dialect="duckdb")  # noqa: S608
    except (duckdb.Error, sqlglot.errors.SqlglotError) as error:
        if len(columns) > 1:  # which of them it is
            for name, sql in columns.items():
                with_sql(table, {name: sql})
        found = str(error).splitlines()[0]
        raise FinerankError(
            ", ".join(sql.where for sql in columns.values()),
            expected="an SQL expression over the columns",
            found=f"{'; '.join(sql.text for sql in columns.values())} ({found})",
        ) from error


def check_sql(sql: str, columns: tuple[str, ...], where: str) -> None:
    """Check that an SQL expression parses and names only columns that are there."""
    try:
        tree = sqlglot.parse_one(f"SELECT ({sql}\n)", read="duckdb")
    except sqlglot.errors.SqlglotError as error:
        found = str(error).splitlines()[0]
        raise FinerankError(
            where, expected="an SQL expression", found=f"{sql!r} ({found})"
        ) from error
    known = {name.lower() for name in columns}
    for column in tree.find_all(expressions.Column):
        check_column(column.name, columns, f"{where} ({sql})", present=column.name.lower() in known)


def check_column(
    column: str, columns: tuple[str, ...], where: str, *, present: bool | None = None
) -> None:
    """Check that a column is there."""
    if not (column in columns if present is None else present):
        hint = did_you_mean(column, columns)
        raise FinerankError(
            where, expected=f"a column {column!r}", found="no such column", fix=hint
        )


def _join(parts: Mapping[str, ibis.Table]) -> ibis.Table:
    """The tables of the splits as one, with a column that says which row came from where."""
    alike = _alike({f"split.{name}": part for name, part in parts.items()}, "split")
    return ibis.union(
        *(
            part.mutate(**{SPLIT_COLUMN: ibis.literal(index, "int8")})
            for index, part in enumerate(alike)
        )
    )


def _alike(parts: Mapping[str, ibis.Table], where: str) -> list[ibis.Table]:
    """The tables with the same columns, in one order and of one type.

    Args:
        parts: by the words that name each in an error.
        where: what all of them are.

    Raises:
        FinerankError: one has other columns, or their types have nothing in common.
    """
    first, columns = next((name, part.columns) for name, part in parts.items())
    for name, part in parts.items():
        if differ := set(columns) ^ set(part.columns):
            raise FinerankError(
                name,
                expected=f"the columns of {first}",
                found=f"a difference in {', '.join(sorted(differ))}",
            )
    kinds = {}
    for column in columns:
        found = [part[column].type() for part in parts.values()]
        try:
            kinds[column] = datatypes.highest_precedence(found)
        except ibis.common.exceptions.IbisTypeError as error:
            *others, last = (name.removeprefix(f"{where}.") for name in parts)
            raise FinerankError(
                where,
                expected=f"one type of {column!r} in {', '.join(others)} and {last}",
                found=", ".join(map(str, found)),
            ) from error
    return [
        part.select(**{column: part[column].cast(kinds[column]) for column in columns})
        for part in parts.values()
    ]


class RawTables:
    """The log, the user table and the item table of a recipe.

    Args:
        logs: paths of the log, in place of the recipe's.

    Attributes:
        log: every row, with the column `SPLIT_COLUMN` where the recipe gives files per split.
        entities: the tables ``users`` and ``items``, where the recipe has them.
        sources: what each of them is read from, by its name in the engine.
    """

    def __init__(self, recipe: Recipe, engine: Backend, *, logs: Sequence[str] = ()) -> None:
        self.recipe, self.logs = recipe, logs
        self.entities: dict[Home, ibis.Table] = {}
        self.sources: dict[str, Source] = {}
        self.log = self._open_log(engine)
        for home, settings in recipe.entities.items():
            ids = recipe.id_columns(home)
            where = f"{home}.path"
            table = open_table(engine, settings.path, where, settings, ids, self.sources)
            self.entities[home] = with_columns(table, settings.derive, f"{home}.derive")
        self._check_columns()

    def _open_log(self, engine: Backend) -> ibis.Table:
        log, split, ids = self.recipe.log, self.recipe.split, self.recipe.id_columns("log")
        if self.logs:
            parts = {path: open_table(engine, path, path, log, ids) for path in self.logs}
            table = ibis.union(*_alike(parts, "log")) if len(parts) > 1 else parts[self.logs[0]]
        elif split.by == "files":
            paths = {name: getattr(split, name) for name in SPLITS}
            table = _join(
                {
                    name: open_table(engine, path, f"split.{name}", log, ids, self.sources)
                    for name, path in paths.items()
                }
            )
        else:
            assert log.path is not None
            table = open_table(engine, log.path, "log.path", log, ids, self.sources)
        return with_columns(table, log.derive, "log.derive")

    def _check_columns(self) -> None:
        recipe = self.recipe
        for role in ("user", "item", "time", "event"):
            column = getattr(recipe.log, role)
            if column is not None:
                check_column(column, self.log.columns, f"log.{role}")
        for home, settings in recipe.entities.items():
            columns = self.entities[home].columns
            check_column(settings.key, columns, f"{home}.key")
            if settings.title is not None:
                check_column(settings.title, columns, f"{home}.title")
        for name in recipe.features:
            self.home_of(name)
        self._check_lists()
        for sql in log_sql(recipe).values():
            check_sql(sql.text, self.log.columns, sql.where)

    def _check_lists(self) -> None:
        for name, history in self.recipe.list_histories.items():
            lists = history.lists or {}
            for feature, column in lists.items():
                check_column(column, self.log.columns, f"histories.{name}.lists.{feature}")
            for feature in history.features:
                if feature not in lists and self.home_of(feature) != "items":
                    raise FinerankError(
                        f"histories.{name}.features",
                        expected="features of the item table beside those of the lists",
                        found=f"{feature!r} in the log",
                        fix="Give its list too, or leave it out.",
                    )
        check_lists(self.log, self.recipe)

    def home_of(self, feature: str) -> Home:
        """The table that holds a feature's column: its side's own table first, then the log."""
        if self.recipe.only_listed(feature):
            return "log"
        settings, column = self.recipe.features[feature], self.recipe.column_of(feature)
        homes: dict[str, Home] = {"user": "users", "item": "items"}
        home = homes.get(settings.side)
        if home in self.entities and column in self.entities[home].columns:
            return home
        if home in self.entities and column == getattr(self.recipe.log, settings.side):
            return home  # the id itself, under the log's name for it
        columns = self.log.columns
        if home in self.entities:
            columns = (*columns, *self.entities[home].columns)
        check_column(column, columns, f"features.{feature}")
        return "log"

    def column_type(self, feature: str) -> Any:  # noqa: ANN401  (an ibis data type)
        """The raw type of a feature's column."""
        home = self.home_of(feature)
        table = self.log if home == "log" else self.entities[home]
        return table[self.raw_column(feature)].type()

    def raw_column(self, feature: str) -> str:
        """The name of a feature's column in its own table."""
        column, home = self.recipe.column_of(feature), self.home_of(feature)
        if home == "log" or column in self.entities[home].columns:
            return column
        return self.settings_of(home).key

    def settings_of(self, home: Home) -> EntityTableSettings:
        """The settings of the table of users or items."""
        settings = self.recipe.users if home == "users" else self.recipe.items
        assert settings is not None
        return settings
