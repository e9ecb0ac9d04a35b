"""A user or item table under names of our own: ``key``, ``title``, ``feature.NAME``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis

from finerank.data.rows import as_id

if TYPE_CHECKING:
    from finerank.data.schema import Home
    from finerank.data.tables import RawTables


def select_entities(tables: RawTables, home: Home) -> ibis.Table:
    """What a recipe needs of a table of users or items, of the rows that have a key.

    Raises:
        FinerankError: as `as_id`, for the key and for features of ids.
    """
    table, settings = tables.entities[home], tables.settings_of(home)
    selected: dict[str, ibis.Value] = {"key": as_id(table[settings.key], f"{home}.key")}
    for name, feature in tables.recipe.features.items():
        if tables.home_of(name) == home:
            column = table[tables.raw_column(name)]
            is_id = feature.type in ("id", "ids")
            selected[f"feature.{name}"] = as_id(column, f"features.{name}") if is_id else column
    if settings.title is not None:
        selected["title"] = table[settings.title].cast("string")
    return table.select(**selected).filter(ibis._.key.notnull())
