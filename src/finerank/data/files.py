"""Files of a table, found and opened in an engine as they are.

Nothing is lost on the way without a word: all files are of one kind, whole, with the same columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import ibis
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from finerank.data.engine import told
from finerank.data.paths import find_files, kind_of
from finerank.data.text_files import check_names, check_same_columns, check_whole, read_text
from finerank.errors import FinerankError
from finerank.settings import FileSettings

if TYPE_CHECKING:
    from collections.abc import Collection

    from ibis.backends.duckdb import Backend


class Source(NamedTuple):
    """What a raw table is read from.

    Attributes:
        kind: parquet, csv, json or arrow.
        files: all of that kind.
        options: of DuckDB's reader of text files.
        schema: what the columns of Parquet and Arrow files have in common.
    """

    kind: str
    files: list[str]
    options: dict[str, Any]
    schema: pa.Schema | None


def open_table(
    engine: Backend,
    path: str,
    where: str,
    settings: FileSettings | None = None,
    ids: Collection[str] = (),
    sources: dict[str, Source] | None = None,
    only: Collection[str] | None = None,
) -> ibis.Table:
    """A table over files; nothing is loaded yet.

    Args:
        settings: how files are written; what is derived is not added here.
        ids: columns that hold ids.
        sources: gets what the table is read from, under its name in the engine.
        only: of the files that the path means, those to be read.

    Raises:
        FinerankError: no such file, only empty ones, one that can't be read or isn't whole, one
            without the columns of the others, or columns of one name.
    """
    text = settings or FileSettings()
    files = find_files(path, where, text.format)
    files = files if only is None else [file for file in files if str(file) in only]
    whole = [file for file in files if file.stat().st_size]
    if not whole:
        raise FinerankError(where, expected="a table", found=f"an empty file, {files[0]}")
    names, kind = [str(file) for file in whole], text.format or kind_of(whole[0])
    options = {"delim": text.separator, "encoding": text.encoding}
    options = {name: value for name, value in options.items() if value is not None}
    if kind != "csv" and (text.columns is not None or options):
        raise FinerankError(
            where,
            expected="text files beside columns, separator or encoding",
            found=f"{kind} in {path}",
        )
    check_whole(whole, where)
    schema = None
    try:
        if kind == "csv":
            table, options = read_text(
                engine, whole, where, columns=text.columns, ids=ids, options=options
            )
        elif kind == "json":
            table = engine.read_json(names)
        else:
            schema = _common_schema(names, kind, where)
            table = _read_columnar(engine, names, kind, schema)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        fix = ""
        if "not utf-8" in str(error):
            fix = "Say encoding: latin-1, or what it is."
        elif "sniffing" in str(error):
            fix = "Has it one separator and one kind of line end throughout, and lines below 2 MB?"
        raise FinerankError(
            where,
            expected=f"readable {kind} in {path}",
            found=told(error),
            fix=fix or "Is the file whole?",
        ) from error
    if sources is not None:
        sources[table.get_name()] = Source(str(kind), names, options, schema)
    if text.columns is None:
        return table
    return table.rename(dict(zip(text.columns, table.columns, strict=True)))


def _read_columnar(
    engine: Backend, names: list[str], kind: str | None, schema: pa.Schema
) -> ibis.Table:
    if kind == "parquet":
        return engine.read_parquet(names, union_by_name=len(names) > 1)
    name = ibis.util.gen_name("arrow")
    engine.con.register(name, pyarrow.dataset.dataset(names, schema, format="ipc"))
    return engine.table(name)


def _common_schema(names: list[str], kind: str | None, where: str) -> pa.Schema:
    """The columns that all files have, with types that hold the values of each."""
    schemas = {}
    for name in names:
        try:
            if kind == "parquet":
                schemas[name] = pq.read_schema(name)
            else:
                with pa.memory_map(name) as file, pa.ipc.open_file(file) as reader:
                    schemas[name] = reader.schema
        except (pa.ArrowException, OSError) as error:
            raise FinerankError(
                where,
                expected=f"a whole {kind} file",
                found=f"{name} ({' '.join(str(error).split())})",
                fix="Was it cut off on its way? Write or copy it again.",
            ) from error
        check_names(schemas[name].names, where)
    check_same_columns({name: schema.names for name, schema in schemas.items()}, where)
    try:
        return pa.unify_schemas(list(schemas.values()), promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise FinerankError(
            where, expected="columns of one type in all files", found=told(error)
        ) from error
