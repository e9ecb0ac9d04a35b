"""Text files with columns, read so that nothing is lost on the way without a word."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    import ibis
    from ibis.backends.duckdb import Backend

_PIECE = 1 << 20  # bytes
_SEPARATORS = ",;\t|"
_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
_LOOKED_AT = 100_000  # lines, for the row that makes a file unreadable
# whole numbers that come back as other text: 007, or more digits than a float holds
_NOT_A_NUMBER = {True: r"^\s*[+-]?0[0-9]", False: r"^\s*[+-]?(0[0-9]|[0-9]{16,}$)"}


def check_whole(files: Sequence[Path], where: str) -> None:
    """Check that compressed files are not cut off or damaged.

    The engine takes what it can unpack for the whole.

    Raises:
        FinerankError: one is.
    """
    for file in files:
        compression = _COMPRESSION.get(file.suffix.lower())
        if compression is None:
            continue
        try:
            with pa.input_stream(str(file), compression=compression) as stream:
                while stream.read(_PIECE):
                    pass
        except (OSError, pa.ArrowException) as error:
            raise FinerankError(
                where,
                expected=f"a whole {file.suffix} file",
                found=f"{file} ({error})",
                fix="Was it cut off on its way? Copy it again.",
            ) from error


def check_names(names: Sequence[str], where: str) -> None:
    """Check that no column's name is there twice, as SQL compares them.

    Raises:
        FinerankError: one is.
    """
    seen: dict[str, str] = {}
    for name in names:
        if name and name.lower() in seen:
            other = seen[name.lower()]
            found = f"{name!r} twice" if name == other else f"{other!r} and {name!r}"
            raise FinerankError(
                where,
                expected="columns whose names differ in more than upper and lower case",
                found=found,
                fix="Rename one of them in the file.",
            )
        seen[name.lower()] = name


def check_same_columns(columns: Mapping[str, Collection[str]], where: str) -> None:
    """Check that all files of a table have the columns of the first, in any order.

    Args:
        columns: of each file.

    Raises:
        FinerankError: one hasn't; its values would be missing without a word.
    """
    first, expected = next(iter(columns.items()))
    for file, found in columns.items():
        if differ := sorted({*expected} ^ {*found}):
            raise FinerankError(
                where,
                expected=f"the columns of {first} in each file",
                found=f"a difference in {', '.join(differ)} in {file}",
                fix="Write the files with the same columns, or name a pattern of those that have.",
            )


def read_text(
    engine: Backend,
    files: Sequence[Path],
    where: str,
    *,
    columns: Sequence[str] | None,
    ids: Collection[str],
    options: dict[str, Any],
) -> tuple[ibis.Table, dict[str, Any]]:
    """A table over CSV files, and with which options the engine reads them.

    Types are guessed from the first lines. Without a header row the columns still have the
    engine's names.

    Args:
        columns: their names, of files without a header row.
        ids: columns that hold ids: these stay text where numbers would change them, as 007 would.
        options: separator and encoding, as the engine calls them.

    Raises:
        FinerankError: not the same columns in each file, or a name twice.
        duckdb.Error: the engine can't read them.
    """
    names = [str(file) for file in files]
    options = {**options, "header": columns is None, "union_by_name": columns is None}
    encoding = options.get("encoding", "utf-8")
    try:
        table = engine.read_csv(names, **options)
    except duckdb.Error:
        _explain(files, where, encoding, options.get("delim"))
        raise
    if columns is None:
        headers = {_lines(file, encoding, 1) for file in files}
        if len(headers) > 1:
            check_same_columns({n: engine.read_csv([n], **options).columns for n in names}, where)
        if len(table.columns) == 1 and any(each in table.columns[0] for each in _SEPARATORS):
            _explain(files, where, encoding, options.get("delim"))
        check_names(_as_written(table.columns, "".join(next(iter(headers), ()))), where)
    else:
        check_names(columns, where)
        if len(table.columns) != len(columns):
            raise FinerankError(
                where, expected=f"{len(columns)} columns", found=f"{len(table.columns)}"
            )
    given = dict(zip(columns or table.columns, table.columns, strict=True))
    types = _kept_as_text(engine, names, table, [given[i] for i in ids if i in given], options)
    if types:
        table = engine.read_csv(names, types=types, **options)
    return table, options


def _kept_as_text(
    engine: Backend, names: list[str], table: ibis.Table, ids: list[str], options: dict[str, Any]
) -> dict[str, str]:
    """Those id columns that numbers would change."""
    numbers = [name for name in ids if table[name].type().is_numeric()]
    if not numbers:
        return {}
    as_text = engine.read_csv(names, types=dict.fromkeys(numbers, "VARCHAR"), **options)
    changes = {
        name: as_text[name].re_search(_NOT_A_NUMBER[table[name].type().is_integer()]).any()
        for name in numbers
    }
    found = as_text.agg(**changes).to_pyarrow().to_pylist()[0]
    return {name: "VARCHAR" for name in numbers if found[name]}


def _as_written(columns: Sequence[str], header: str) -> list[str]:
    """Columns under the names of the header: the engine calls a second ``x`` ``x_1``."""
    known = {name.lower() for name in columns}
    written = []
    for name in columns:
        base = re.fullmatch(r"(.+)_[0-9]+", name)
        renamed = base is not None and base[1].lower() in known and name not in header
        written.append(base[1] if base is not None and renamed else name)
    return written


def _lines(file: Path, encoding: str, most: int) -> tuple[str, ...]:
    """The first lines that aren't blank, without a byte order mark."""
    compression = _COMPRESSION.get(file.suffix.lower())
    lines: list[str] = []
    with pa.input_stream(str(file), compression=compression) as stream:
        decoder = codecs.getreader("utf-8-sig" if encoding == "utf-8" else encoding)
        for line in io.BufferedReader(stream) if encoding != "utf-16" else decoder(stream):
            text = line if isinstance(line, str) else line.decode(encoding, "replace")
            if text.strip():
                lines.append(text.lstrip("\ufeff").rstrip("\r\n"))
            if len(lines) == most:
                break
    return tuple(lines)


def _explain(files: Sequence[Path], where: str, encoding: str, separator: str | None) -> None:
    """Say which row has more or fewer columns than the header, where that is what is wrong."""
    for file in files:
        lines = _lines(file, encoding, _LOOKED_AT)
        if not lines:
            continue
        mark = separator or max(_SEPARATORS, key=lines[0].count)
        if len(mark) > 1 or mark not in lines[0]:
            continue
        with contextlib.suppress(csv.Error):  # the engine says better what is wrong then
            _check_rows(list(csv.reader(lines, delimiter=mark)), mark, file, where)


def _check_rows(rows: list[list[str]], mark: str, file: Path, where: str) -> None:
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise FinerankError(
                where,
                expected=f"{len(rows[0])} columns in each row, as in the first of {file}",
                found=f"{len(row)} in row {number}: {mark.join(row)[:200]}",
                fix="A text that holds the separator has to be in quotes.",
            )
