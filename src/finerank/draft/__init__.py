"""Drafts a recipe to edit: guesses from files what their columns mean, and says why."""

from __future__ import annotations

import ibis

from finerank.draft.columns import Table
from finerank.draft.guesses import Guesses
from finerank.draft.text import Text

__all__ = ["draft_recipe"]


def draft_recipe(log: str, *, users: str | None = None, items: str | None = None) -> str:
    """The text of a recipe for these files, with comments, to be edited by a person.

    It is a valid recipe where a label could be guessed; what could not be is marked TODO.

    Args:
        log: Parquet, Arrow, CSV or JSON lines file, folder of them, or pattern, as given.
        users: likewise, with one row a user.
        items: likewise, with one row an item.

    Raises:
        FinerankError: there is no such file, or it can't be read.
    """
    engine = ibis.duckdb.connect()
    try:
        tables = {
            home: Table(engine, home, path)
            for home, path in (("log", log), ("users", users), ("items", items))
            if path is not None
        }
        return str(Text(Guesses(tables)))
    finally:
        engine.disconnect()
