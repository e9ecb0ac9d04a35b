"""Settings of raw tables: files, the log, users and items."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finerank.settings.base import Name, Settings


class FileSettings(Settings):
    """Files of a table, all of one kind; and what is derived from its columns."""

    format: Literal["parquet", "csv", "json", "arrow"] | None = Field(
        default=None, description="of files whose ending doesn't say it"
    )
    columns: list[Name] | None = Field(
        default=None, min_length=1, description="of text files without a header row: the names"
    )
    separator: str | None = Field(
        default=None,
        min_length=1,
        description="of text files: what stands between the columns; guessed where left out",
    )
    encoding: Literal["utf-8", "utf-16", "latin-1"] | None = Field(
        default=None, description="of text files: utf-8 where left out"
    )
    derive: dict[Name, str] = Field(
        default_factory=dict, description="further columns: name -> SQL expression over the columns"
    )


class TableSettings(FileSettings):
    """A file, a folder or a glob pattern of files; relative paths start at the recipe."""

    path: str = Field(
        description="Parquet, Arrow, CSV or JSON lines file, folder of them, or glob pattern"
    )


class LogSettings(FileSettings):
    """The event log: who, what, when."""

    path: str | None = Field(
        default=None, description="as in users and items; left out where the split names files"
    )
    user: str | None = Field(default=None, description="column that holds the user's id")
    item: str | None = Field(default=None, description="column that holds the item's id")
    time: str | None = Field(
        default=None, description="column that orders a user's events: a number, a date or a time"
    )
    event: str | None = Field(
        default=None, description="column with the type of each event, for tasks with event"
    )
    examples: str | None = Field(
        default=None,
        description="SQL condition: which rows are examples; the others may enter histories and "
        "make labels. All rows where left out",
    )


class EntityTableSettings(TableSettings):
    """A table with one row a user, or one row an item."""

    key: str = Field(description="column that holds the id; unique")
    title: str | None = Field(default=None, description="column shown to people beside the id")
