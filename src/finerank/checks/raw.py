"""The raw log in DuckDB: its rows under our names, with the split that the recipe gives each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finerank.checks.entities import load_entities
from finerank.checks.parts import told, with_parts
from finerank.checks.report import Check
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
from finerank.checks.stages import Stage, find_stages
from finerank.data.files import open_table
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from ibis.backends.duckdb import Backend

    from finerank.checks.stored import Row, Stored
    from finerank.data.schema import Feature
    from finerank.settings import FileSettings

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class RawLog:
    """The tables of a recipe, made anew from the raw files.

    Tables in the engine: ``examples`` (the prepared ones), ``rows`` (every row that has a user, an
    item and a time where the recipe names them), ``users`` and ``items`` (a row each, in the order
    of the prepared keys). Ids are text, times are numbers (microseconds where the log has dates or
    times). In ``rows`` stand

    - ``stage``: the number of the stage that read it;
    - ``split``: the number of the split, -1 for no example, null where it can't be told;
    - ``own``: likewise, as its stage had it: all rows of earlier stages train now;
    - ``told``: whether it surely trained at its stage, or surely not;
    - ``cut``: the moment up to which outcomes may be looked for, and whether it is included,
      ``closed``.

    Of ``users`` and ``items`` there are also those of each stage, such as ``items_0``.

    Args:
        features: those to be read.

    Attributes:
        stages: all of them.
        there: those from which on all logs are there.
        split: of the last stage.
        own: features that are a user's or an item's own id, known to the last vocabularies.
        first_examples: of each split, the first that is of a stage that is there.
        begins: the first time of the rows that are there, where rows of others are not.
    """

    def __init__(self, tables: Backend, stored: Stored, features: list[Feature]) -> None:
        self.tables, self.engine = tables, tables.con
        self.stored, self.recipe = stored, stored.recipe
        self.features = features
        self.stages = find_stages(stored)
        lost = [stage.number for stage in self.stages if "log" in stage.lost]
        self.there = self.stages[max(lost) + 1 if lost else 0 :]
        self.split = self.stages[-1].split
        self.own = self._own_ids()
        self._load_examples()
        self._load_rows()
        self.engine.execute(f"CREATE TABLE parted AS {with_parts(self)}")
        self.engine.execute(f"CREATE TABLE rows AS {told(self)}")
        self.begins = self.ask("SELECT min(time) FROM rows")[0][0] if lost else None
        for home in self.recipe.entities:
            load_entities(self, home)

    def expected(self, feature: Feature, row: Row) -> object:
        """What the model should read for a feature of a raw row, or of a user or item."""
        stage = -1 if feature.name in self.own else row["stage"]
        return self.stored.encode(feature, row[f"feature.{feature.name}"], stage)

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

    def opened(
        self, path: str, where: str, settings: FileSettings, stage: Stage, home: str = "log"
    ) -> str:
        """The select that reads files, by the one reader that the package has."""
        ids = self.recipe.id_columns(home)
        table = open_table(self.tables, path, where, settings, ids, only=stage.files)
        return f"({self.tables.compile(table)})"

    def _own_ids(self) -> set[str]:
        log = self.recipe.log
        own = {"user": log.user, "item": log.item, "history": log.item}
        return {
            feature.name
            for feature in self.features
            if feature.home == "log"
            and feature.type == "id"
            and feature.column == own.get(feature.side)
        }

    def _load_examples(self) -> None:
        parts, first = [], self.there[0].first_request
        starts = self.stored.requests[0].column("first_candidate")
        self.first_examples = [starts[first].as_py() if first else 0, 0, 0]
        for split in range(len(SPLITS)):
            given = self.stored.examples(split, self.first_examples[split])
            self.engine.register(f"examples_{split}", given)
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
        source = " UNION ALL BY NAME ".join(
            f'SELECT *, {split} AS "finerank.split", {stage.number} AS "finerank.stage" FROM '  # noqa: S608
            + self.opened(path, where, log, stage)
            for stage in self.there
            for where, path, split in stage.logs
        )
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
            "file": '"finerank.split"',
            "stage": '"finerank.stage"',
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


def raw_log(raw: RawLog) -> Check:
    """Which raw files of the stages of a data set are there."""
    lost = [error for stage in raw.stages for error in stage.lost.values()]
    if not lost:
        what = f"the files of all {len(raw.stages)} stages are there, as they were"
        return Check("raw files", "passed", what)
    what = f"{lost[0].where}: {lost[0].found}"
    what += f", and {len(lost) - 1} more" if len(lost) > 1 else ""
    if raw.begins is not None:
        what += f"; of {len(raw.stages)} stages the last {len(raw.there)} are checked, "
        what += f"from {raw.stored.moment(raw.begins)} on"
    return Check("raw files", "not checked", what)
