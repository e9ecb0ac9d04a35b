"""The tables of users and items in DuckDB, at each stage of a data set and as it has them now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finerank.checks.sql import as_columns, key_sql, quoted, value_sql, with_sql

if TYPE_CHECKING:
    from typing import Literal

    from finerank.checks.raw import RawLog
    from finerank.checks.stages import Stage


def load_entities(raw: RawLog, home: Literal["users", "items"]) -> None:
    """The table of users or items at each stage; and now, a row as the last that lists it."""
    there = [stage for stage in raw.stages if home not in stage.lost]
    for stage in there:
        same = next(each for each in there if stage.table_is_as_of(each, home))
        if same is stage:
            _load_table(raw, home, stage)
        else:
            table = f"SELECT * FROM {home}_{same.number}"  # noqa: S608
            raw.engine.execute(f"CREATE VIEW {home}_{stage.number} AS {table}")
    every = " UNION ALL BY NAME ".join(
        f"SELECT *, {stage.number} AS stage FROM {home}_{stage.number}"  # noqa: S608
        for stage in there
    )
    last = (
        "" if len(there) == len(raw.stages) else f"WHERE listed AND stage = {len(raw.stages) - 1} "
    )
    raw.engine.execute(
        f"CREATE TABLE {home} AS SELECT * FROM ({every}) {last}QUALIFY "  # noqa: S608
        "row_number() OVER (PARTITION BY row ORDER BY listed DESC, stage DESC) = 1"
    )


def _load_table(raw: RawLog, home: Literal["users", "items"], stage: Stage) -> None:
    table, name = raw.recipe.entities[home], f"{home}_{stage.number}"
    opened = raw.opened(stage.tables[home], f"{home}.path", table, stage, home)
    raw.engine.execute(f"CREATE TEMP VIEW {name}_read AS SELECT * FROM {opened}")  # noqa: S608
    derived = with_sql(f"{name}_read", table.derive)
    raw.engine.execute(f"CREATE TEMP VIEW {name}_derived AS {derived}")
    types = raw.types(f"{name}_derived")
    columns = {"key": key_sql(quoted(table.key), types[table.key])}
    selected = []
    for feature in raw.features:
        if feature.home == home:
            column = feature.column if feature.column in types else table.key
            if column == table.key:  # an id that the table doesn't list is still itself
                raw.own.add(feature.name)
                selected.append(f'k.key AS "feature.{feature.name}"')
            else:
                value = value_sql(quoted(column), types[column], feature)
                columns[f"feature.{feature.name}"] = value
                selected.append(f't."feature.{feature.name}"')
    every = ", ".join(["k.row", "k.key", "t.key IS NOT NULL AS listed", *selected])
    raw.engine.execute(
        f"CREATE TABLE {name} AS SELECT {every} FROM {home}_keys k LEFT JOIN "  # noqa: S608
        f"(SELECT {as_columns(columns)} FROM {name}_derived) t ON t.key = k.key"
    )
