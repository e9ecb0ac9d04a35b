"""Small parts of SQL: names, texts, and a raw column as an id, a number or a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlglot

if TYPE_CHECKING:
    from finerank.data.schema import Feature

BLANKS = "' ' || chr(9) || chr(10) || chr(11) || chr(12) || chr(13)"
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"


def as_columns(columns: dict[str, str]) -> str:
    """Expressions under their names, for a select."""
    return ", ".join(f"{sql} AS {quoted(name)}" for name, sql in columns.items())


def with_sql(relation: str, columns: dict[str, str]) -> str:
    """A relation with the recipe's expressions as further columns."""
    added = "".join(f", ({names_quoted(sql)}) AS {quoted(name)}" for name, sql in columns.items())
    return f"SELECT *{added} FROM {relation}"  # noqa: S608


def names_quoted(sql: str) -> str:
    """An expression whose columns are quoted, so that one may be called as a keyword is.

    >>> names_quoted("at > 20")
    '"at" > 20'
    """
    tree = sqlglot.parse_one(sql, read="duckdb")
    return str(tree.sql(dialect="duckdb", identify=True))


def key_sql(column: str, kind: str) -> str:
    """An id as text; a whole number that is held as a float like any other."""
    if kind in ("FLOAT", "DOUBLE"):
        column = f"CAST(CASE WHEN isnan({column}) THEN NULL ELSE {column} END AS BIGINT)"
    elif kind == "BOOLEAN":
        column = f"CAST({column} AS BIGINT)"
    return f"CAST({column} AS VARCHAR)"


def number_sql(column: str, kind: str) -> str:
    """A number as a double, null where it is none."""
    return f"CASE WHEN isnan(CAST({column} AS {kind})) THEN NULL ELSE CAST({column} AS {kind}) END"


def time_sql(column: str, kind: str) -> str:
    """A time as a number; microseconds since 1970 for dates and times. Null where without end."""
    if kind in _INTEGERS or kind == "UBIGINT":
        return f"CAST({column} AS BIGINT)"
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        moment = column if kind == "TIMESTAMP WITH TIME ZONE" else f"CAST({column} AS TIMESTAMP)"
        return f"CASE WHEN year({column}) BETWEEN 1 AND 9999 THEN epoch_us({moment}) END"
    return f"CASE WHEN isfinite(CAST({column} AS DOUBLE)) THEN CAST({column} AS DOUBLE) END"


def value_sql(column: str, kind: str, feature: Feature) -> str:
    """A feature's raw value: ids as text, numbers as doubles."""
    if feature.type == "number":
        return f"CAST({column} AS DOUBLE)"
    if feature.type == "vector":
        return f"CAST({column} AS FLOAT[])"
    if feature.type == "ids" and feature.separator is None:
        return f"[{key_sql('x', kind.partition('[')[0])} for x in {column}]"
    return key_sql(column, kind)


def list_sql(
    column: str, kind: str, feature: Feature, separator: str | None, *, whole: bool
) -> str:
    """The steps that a row holds of a feature: a list of texts, or of doubles.

    Args:
        separator: what stands between them in a text; None where they are a list.
        whole: whether ids that spell no whole number are unknown.
    """
    if separator is None:
        value = (
            "CAST(x AS DOUBLE)"
            if feature.type == "number"
            else key_sql("x", kind.rpartition("[")[0])
        )
        values = f"[{value} for x in {column}]"
    else:
        texts = (
            f"[nullif(trim(x, {BLANKS}), '') for x in string_split({column}, {text(separator)})]"
        )
        values = f"CASE WHEN trim({column}, {BLANKS}) <> '' THEN {texts} END"
        if feature.type == "number":
            values = f"[CAST(x AS DOUBLE) for x in {values}]"
    if whole:
        number = "CAST(CAST(x AS BIGINT) AS VARCHAR)"
        values = f"[CASE WHEN regexp_full_match(x, '-?[0-9]{{1,18}}') THEN {number} END for x in {values}]"  # noqa: E501
    return values
