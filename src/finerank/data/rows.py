"""Log rows under names of our own; the same before training and when serving.

A row is an event that is also an example: a user, an item, a time, features, labels. Column names:
``user``, ``item``, ``time``, ``split``, ``feature.NAME``, ``label.TASK``, ``enters.HISTORY``, and
where the recipe has them ``event`` (its type), ``example`` (whether the row is one) and
``list.HISTORY.FEATURE`` (steps that the row holds ready-made).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis

from finerank.data.list_columns import list_columns
from finerank.data.tables import SPLIT_COLUMN, Sql, log_sql, with_sql
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.recipe import Recipe


_EXACT = 2**53  # beyond it a float skips whole numbers, so that ids would merge


def as_id(column: ibis.Column, where: str) -> ibis.Column:
    """An id column as int64 or text, or lists of them as they are.

    Raises:
        FinerankError: floats that aren't whole numbers, or too large to be exact; or what is
            neither a number nor text.
    """
    kind = column.type()
    each = kind.value_type if kind.is_array() else kind
    if each.is_nested() or each.is_binary() or each.is_json():
        raise FinerankError(
            where,
            expected="whole numbers or text as ids",
            found=f"a column of type {kind}",
            fix="Cast it to text under derive.",
        )
    if kind.is_floating():
        table = column.as_table()
        value = table[table.columns[0]].cast("float64")
        wrong = ~value.isnan() & ((value.abs() > _EXACT) | (value % 1 != 0))
        broken = table.filter(value.notnull() & wrong).limit(1).to_pyarrow()
        if broken.num_rows:
            raise FinerankError(
                where,
                expected="whole numbers or text as ids",
                found=str(broken[0][0].as_py()),
                fix="Is it a number? Else cast it to text where the file is written.",
            )
        return _nan_as_null(column).cast("int64")
    if kind.is_unsigned_integer() and kind.nbytes == 8:  # noqa: PLR2004
        return column.cast("string")  # hashes may not fit into int64
    if kind.is_integer() or kind.is_boolean():
        return column.cast("int64")
    return column if kind.is_array() else column.cast("string")


def _nan_as_null(column: ibis.Column) -> ibis.Column:
    return column.isnan().ifelse(None, column) if column.type().is_floating() else column


def _as_time(column: ibis.Column) -> ibis.Column:
    """A time column without those that are none: NaN, the infinite, and years beyond 9999."""
    kind = column.type()
    if kind.is_floating():
        return (column.isnan() | column.isinf()).ifelse(None, column)
    if kind.is_date() or kind.is_timestamp():
        first, last = ibis.timestamp("0001-01-01"), ibis.timestamp("9999-12-31T23:59:59.999999")
        return column.cast("timestamp").between(first, last).ifelse(column, None)
    return column


def _as_key(column: ibis.Column, where: str) -> ibis.Column:
    """The id of a user or an item."""
    if column.type().is_array():
        raise FinerankError(where, expected="one id a row", found="lists")
    return as_id(column, where)


def select_rows(
    log: ibis.Table, recipe: Recipe, features: Sequence[str], *, labels: bool
) -> ibis.Table:
    """The log with our column names.

    Args:
        features: those whose column is in the log.
        labels: whether to add labels, entry to the histories, ready-made ones, what is an example,
            and the split that files give.
    """
    sql = log_sql(recipe) if labels else {}
    log = with_sql(log, sql)
    selected: dict[str, ibis.Value] = {}
    for name, each in sql.items():
        as_ours = _as_label if name.startswith("label.") else _as_condition
        selected[name] = as_ours(log[name], each)
    if recipe.log.user is not None:
        selected["user"] = _as_key(log[recipe.log.user], "log.user")
    if recipe.log.item is not None:
        selected["item"] = _as_key(log[recipe.log.item], "log.item")
    if recipe.log.time is not None and recipe.log.time in log.columns:
        selected["time"] = _as_time(log[recipe.log.time])
    for name in features:
        column = log[recipe.column_of(name)]
        is_id = recipe.features[name].type in ("id", "ids")
        selected[f"feature.{name}"] = as_id(column, f"features.{name}") if is_id else column
    if labels and recipe.log.event is not None:
        selected["event"] = log[recipe.log.event].cast("string")
    if labels:
        selected |= {name: log[column] for name, column in list_columns(recipe).items()}
    if labels and recipe.split.by == "files":
        selected["split"] = log[SPLIT_COLUMN].cast("int8")  # SQL makes it wider
    return log.select(**selected)


def _as_label(column: ibis.Column, sql: Sql) -> ibis.Column:
    kind = column.type()
    if not (kind.is_numeric() or kind.is_boolean() or kind.is_null()):
        raise FinerankError(
            sql.where,
            expected="0 or 1, false or true, or null where unknown",
            found=f"{sql.text}, of type {kind}",
            fix="Write a condition, such as rating >= 4.",
        )
    return _nan_as_null(column.cast("float64"))


def _as_condition(column: ibis.Column, sql: Sql) -> ibis.Column:
    kind = column.type()
    if not kind.is_boolean():
        raise FinerankError(
            sql.where,
            expected="a condition, true or false",
            found=f"{sql.text}, of type {kind}",
            fix="Write a comparison, such as rating >= 4.",
        )
    return column.fill_null(False)  # noqa: FBT003  (the value that takes the place of null)
