"""The raw log in DuckDB: its rows under our names, with the split that the recipe gives each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finerank.checks.parts import told, with_parts
from finerank.checks.sql import (
    as_columns,
    key_sql,
    list_sql,
    number_sql,
    quoted,
    time_sql,
    value_sql,
    with_sql,
)
from finerank.data.files import open_table
from finerank.settings import SPLITS, FilesSplit

if TYPE_CHECKING:
    from ibis.backends.duckdb import Backend

    from finerank.checks.stored import Stored
    from finerank.data.schema import Feature, Home
    from finerank.settings import EntityTableSettings, FileSettings

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class RawLog:
    """The tables of a recipe, made anew from the raw files.

    Tables in the engine: ``examples`` (the prepared ones), ``rows`` (every row that has a user, an
    item and a time where the recipe names them), ``users`` and ``items`` (a row each, in the order
    of the prepared keys). Ids are text, times are numbers (microseconds where the log has dates or
    times). In ``rows`` stand

    - ``split``: the number of the split, -1 for no example, null where it can't be told;
    - ``told``: whether a row is surely of the training set, or surely not;
    - ``cut``: the moment up to which outcomes may be looked for, and whether it is included,
      ``closed``.

    Args:
        features: those to be read.
    """

    def __init__(self, tables: Backend, stored: Stored, features: list[Feature]) -> None:
        self.tables, self.engine = tables, tables.con
        self.stored, self.recipe = stored, stored.recipe
        self.features = features
        self._load_examples()
        self._load_rows()
        self.engine.execute(f"CREATE TABLE parted AS {with_parts(self)}")
        self.engine.execute(f"CREATE TABLE rows AS {told(self)}")
        for home, table in self.recipe.entities.items():
            self._load_entities(home, table)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows that a query gives."""
        return self.engine.execute(sql).fetchall()

    def dicts(self, sql: str) -> list[dict[str, Any]]:
        """The rows that a query gives, by column."""
        answer = self.engine.execute(sql)
        names = [each[0] for each in answer.description or ()]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]

    def duration(self, written: float | str) -> float:
        """A duration of the recipe in the unit of prepared times."""
        if isinstance(written, str):
            return int(written[:-1]) * _SECONDS[written[-1]] * 1_000_000
        return int(written) if float(written).is_integer() else written

    def types(self, relation: str) -> dict[str, str]:
        """The type of each column."""
        return {name: kind for name, kind, *_ in self.ask(f"DESCRIBE SELECT * FROM {relation}")}  # noqa: S608

    def _open(self, path: str, where: str, settings: FileSettings, home: str = "log") -> str:
        """The select that reads files, by the one reader that the package has."""
        table = open_table(self.tables, path, where, settings, self.recipe.id_columns(home))
        return f"({self.tables.compile(table)})"

    def _load_examples(self) -> None:
        parts = []
        for split in range(len(SPLITS)):
            self.engine.register(f"examples_{split}", self.stored.examples(split))
            parts.append(f"SELECT * FROM examples_{split}")  # noqa: S608
        self.engine.execute(f"CREATE TABLE examples AS {' UNION ALL '.join(parts)}")
        for home in ("users", "items"):
            if getattr(self.recipe.log, home[:-1]) is not None:
                keys = self.stored.entity_keys(home)
                given = pa.table({"row": pa.array(range(1, len(keys) + 1)), "key": keys})
                self.engine.register(f"{home}_given", given)
                self.engine.execute(f"CREATE TABLE {home}_keys AS SELECT * FROM {home}_given")  # noqa: S608

    def _load_rows(self) -> None:
        """The table ``picked``: rows without their split."""
        log = self.recipe.log
        if isinstance(self.recipe.split, FilesSplit):
            source = " UNION ALL BY NAME ".join(
                f'SELECT *, {number} AS "finerank.split" FROM '  # noqa: S608
                + self._open(getattr(self.recipe.split, name), f"split.{name}", log)
                for number, name in enumerate(SPLITS)
            )
        else:
            assert log.path is not None
            source = f"SELECT * FROM {self._open(log.path, 'log.path', log)}"  # noqa: S608
        self.engine.execute(f"CREATE TEMP VIEW log_read AS {source}")
        self.engine.execute(f"CREATE TEMP VIEW log_derived AS {with_sql('log_read', log.derive)}")
        sql = {f"label.{name}": task.label or "NULL" for name, task in self.recipe.tasks.items()}
        sql |= {
            f"enters.{n}": each.where or "TRUE" for n, each in self.recipe.event_histories.items()
        }
        sql["finerank.meant"] = log.examples or "TRUE"
        self.engine.execute(f"CREATE TEMP VIEW log_said AS {with_sql('log_derived', sql)}")
        types = self.types("log_said")
        columns = {
            "user_key": "NULL" if log.user is None else key_sql(quoted(log.user), types[log.user]),
            "item_key": "NULL" if log.item is None else key_sql(quoted(log.item), types[log.item]),
            "time": "0" if log.time is None else time_sql(quoted(log.time), types[log.time]),
            "event": "NULL" if log.event is None else f"CAST({quoted(log.event)} AS VARCHAR)",
            "meant": 'COALESCE("finerank.meant", FALSE)',
            "file": '"finerank.split"' if "finerank.split" in types else "0",
        }
        for name in sql:
            if name.startswith("label."):
                columns[name] = number_sql(quoted(name), "DOUBLE")
            elif name.startswith("enters."):
                columns[name] = f"COALESCE({quoted(name)}, FALSE)"
        for feature in self.features:
            if feature.home == "log" and not self.recipe.only_listed(feature.name):
                column, kind = quoted(feature.column), types[feature.column]
                columns[f"feature.{feature.name}"] = value_sql(column, kind, feature)
        columns |= self._lists(types)
        keys = {"user": "user_key", "item": "item_key", "time": "time"}
        usable = " AND ".join(f"r.{keys[name]} IS NOT NULL" for name in self.stored.keys) or "TRUE"
        joins = "".join(
            f" LEFT JOIN {name}s_keys {name}_k ON {name}_k.key = r.{name}_key"
            for name in ("user", "item")
            if name in self.stored.keys
        )
        rows = {
            name: f"COALESCE({name}_k.row, -1)" if name in self.stored.keys else "0"
            for name in ("user", "item")
        }
        labelled = " OR ".join(f'r."label.{name}" IS NOT NULL' for name in self.recipe.tasks)
        self.engine.execute(
            f"CREATE TABLE picked AS SELECT r.*, {rows['user']} AS user, {rows['item']} AS item, "  # noqa: S608
            f"r.meant AND ({'TRUE' if self.recipe.has_event_tasks else labelled}) AS kept "
            f"FROM (SELECT {as_columns(columns)} FROM log_said) r{joins} WHERE {usable}"
        )

    def _lists(self, types: dict[str, str]) -> dict[str, str]:
        """The lists of ready-made histories, as text or doubles: ``list.HISTORY.FEATURE``."""
        columns = {}
        for name, history in self.recipe.list_histories.items():
            for feature in self.features:
                if (column := (history.lists or {}).get(feature.name)) is not None:
                    whole = feature.space is not None and self.stored.has_numbers(feature.space)
                    columns[f"list.{name}.{feature.name}"] = list_sql(
                        quoted(column), types[column], feature, history.separator, whole=whole
                    )
        return columns

    def _load_entities(self, home: Home, table: EntityTableSettings) -> None:
        opened = self._open(table.path, f"{home}.path", table, home)
        self.engine.execute(f"CREATE TEMP VIEW {home}_read AS SELECT * FROM {opened}")  # noqa: S608
        derived = with_sql(f"{home}_read", table.derive)
        self.engine.execute(f"CREATE TEMP VIEW {home}_derived AS {derived}")
        types = self.types(f"{home}_derived")
        columns = {"key": key_sql(quoted(table.key), types[table.key])}
        of_key = []
        for feature in self.features:
            if feature.home == home:
                column = feature.column if feature.column in types else table.key
                if column == table.key:  # an id that the table doesn't list is still itself
                    of_key.append(f'k.key AS "feature.{feature.name}"')
                else:
                    value = value_sql(quoted(column), types[column], feature)
                    columns[f"feature.{feature.name}"] = value
                    of_key.append(f't."feature.{feature.name}"')
        selected = "".join(f", {each}" for each in of_key)
        self.engine.execute(
            f"CREATE TABLE {home} AS SELECT k.row, k.key{selected} FROM {home}_keys k LEFT JOIN "  # noqa: S608
            f"(SELECT {as_columns(columns)} FROM {home}_derived) t USING (key)"
        )
