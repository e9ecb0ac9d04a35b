"""The engine that reads, joins, sorts and groups the raw tables: DuckDB."""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING, Any

import duckdb
import ibis

from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LONGEST = 500  # characters of an engine's message


def told(error: Exception) -> str:
    """What an engine says is wrong, on one line, without its advice on options of its own."""
    text, file = str(error), re.search(r"\n  file = (.*)", str(error))
    text = re.split(r"\n\s*\n|\nPossible |\n\* |If you are trying|\nThe search space", text)[0]
    text = " ".join(re.sub(r"^(Invalid Input Error|Conversion Error): ", "", text).split())
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return f"{text} ({file[1]})" if file else text


@contextlib.contextmanager
def open_engine(folder: Path, memory: str | None) -> Iterator[Any]:
    """DuckDB with its files in a folder of its own, which is gone in the end.

    Args:
        folder: there is none of that name yet.
        memory: what it may use before it spills to the folder, such as 2GB.

    Raises:
        FinerankError: not an amount, or too little; or a value of the tables that SQL can't take.
    """
    if memory is not None and not re.fullmatch(r"\d+(\.\d+)?[MG]B", memory):
        raise FinerankError("memory", expected="an amount such as 512MB or 2GB", found=repr(memory))
    folder.mkdir()
    # the order of a table's rows is never relied on, and keeping it costs memory
    options: dict[str, Any] = {"preserve_insertion_order": False}
    options |= {} if memory is None else {"memory_limit": memory}
    spill = str(folder / "spill")
    engine = ibis.duckdb.connect(folder / "tables.duckdb", temp_directory=spill, **options)
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
        raise FinerankError(
            "the recipe's tables",
            expected="values that can be read, and that its SQL can take",
            found=told(error),
            fix="Is every file whole? If a column of a CSV is taken for another type, write it as "
            "Parquet.",
        ) from error
    finally:
        engine.disconnect()
        shutil.rmtree(folder)
