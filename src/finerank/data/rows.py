"""Log rows under names of our own, and their encoding; the same before training and when serving.

A row is an event that is also an example: a user, an item, a time, features, labels. Column names:
``user``, ``item``, ``time``, ``split``, ``feature.NAME``, ``label.TASK``, ``enters.HISTORY``, and
where the recipe has them ``event`` (its type), ``example`` (whether the row is one) and
``list.HISTORY.FEATURE`` (steps that the row holds ready-made).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ibis
import numpy as np
import pyarrow as pa

from finerank.data.events import Times, as_times
from finerank.data.list_columns import list_columns
from finerank.data.tables import SPLIT_COLUMN, Sql, log_sql, with_sql
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from finerank.data.encoding import Encoding
    from finerank.data.entities import Entities
    from finerank.data.schema import Home
    from finerank.data.vocabulary import Vocabulary
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


@dataclass(frozen=True)
class EncodedRows:
    """Rows as numbers.

    Attributes:
        user: row of the user in the prepared user table ``(rows,)`` int32, 0 where unknown.
        item: likewise.
        time: or None where the log has no time.
        features: name -> encoded column.
    """

    user: np.ndarray | None
    item: np.ndarray | None
    time: Times | None
    features: dict[str, pa.Array]

    def __len__(self) -> int:
        columns = (self.user, self.item, self.time, *self.features.values())
        return next((len(column) for column in columns if column is not None), 0)

    def take(self, places: np.ndarray) -> EncodedRows:
        """The rows at the given places."""
        return EncodedRows(
            user=None if self.user is None else self.user[places],
            item=None if self.item is None else self.item[places],
            time=None if self.time is None else self.time[places],
            features={name: array.take(pa.array(places)) for name, array in self.features.items()},
        )


class RowEncoder:
    """Turns raw rows into numbers with what was fitted on the training period."""

    def __init__(
        self,
        encodings: Mapping[str, Encoding],
        *,
        users: Vocabulary | None,
        items: Vocabulary | None,
    ) -> None:
        self.encodings, self.users, self.items = encodings, users, items

    @classmethod
    def of(cls, encodings: Mapping[str, Encoding], entities: Mapping[Home, Entities]) -> RowEncoder:
        """With the ids of the users and items that there are."""
        keys = {home: each.keys for home, each in entities.items()}
        return cls(encodings, users=keys.get("users"), items=keys.get("items"))

    def encode(self, rows: pa.RecordBatch | pa.Table, features: Sequence[str]) -> EncodedRows:
        """Encode the user, item and time of rows, and the named features.

        Raises:
            FinerankError: a value that its encoding can't take, with the column.
        """
        columns = set(rows.schema.names)
        return EncodedRows(
            user=self.users.encode(_flat(rows, "user")) if self.users is not None else None,
            item=self.items.encode(_flat(rows, "item")) if self.items is not None else None,
            time=_times(_flat(rows, "time")) if "time" in columns else None,
            features={name: self.encode_feature(name, rows) for name in features},
        )

    def encode_feature(self, name: str, rows: pa.RecordBatch | pa.Table) -> pa.Array:
        """Encode one feature of raw rows, from its column ``feature.NAME``."""
        values = _flat(rows, f"feature.{name}")
        try:
            return self.encodings[name].encode(values)
        except (ValueError, pa.ArrowException) as error:
            expected = str(error).partition(", found ")
            raise FinerankError(
                f"features.{name}",
                expected=expected[0] if expected[1] else "values of the feature's type",
                found=expected[2] or str(error).splitlines()[0],
            ) from error

    def encode_keys(self, name: str, keys: Vocabulary) -> np.ndarray:
        """A feature that is the user's or item's own id: of the unknown one, then of each key."""
        values = pa.concat_arrays([pa.nulls(1, keys.values.type), keys.values])
        column = pa.record_batch({f"feature.{name}": values})
        return np.asarray(self.encode_feature(name, column))


def _flat(rows: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    column = rows.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _times(values: pa.Array) -> Times:
    try:
        return as_times(values)
    except ValueError as error:
        _, _, found = str(error).partition(", found ")
        raise FinerankError(
            "log.time",
            expected="numbers, dates or times",
            found=found or " ".join(str(error).split()),
            fix="Cast it under log.derive, such as when: CAST(time AS TIMESTAMP).",
        ) from error


def starts_request(
    rows: EncodedRows, features: Sequence[str], previous: EncodedRows | None = None
) -> np.ndarray:
    """Where a new request begins: another user, time or context than the row before.

    Rows without user or without time are requests of their own.

    Args:
        features: the request's features among the rows' own.
        previous: the row before the first.
    """
    if rows.user is None or rows.time is None:
        return np.ones(len(rows), dtype=bool)
    starts = np.zeros(len(rows), dtype=bool)
    starts[:1] = previous is None
    pairs: list[tuple[np.ndarray | pa.Array, np.ndarray | pa.Array | None]] = [
        (rows.user, previous.user if previous else None),
        (rows.time, previous.time if previous else None),
        *((rows.features[f], previous.features[f] if previous else None) for f in features),
    ]
    for column, before in pairs:
        starts |= _changes(column, before)
    return starts


def _changes(column: np.ndarray | pa.Array, before: np.ndarray | pa.Array | None) -> np.ndarray:
    """Where a value differs from the one before it; False at the first without one before."""
    if isinstance(column, np.ndarray):
        values = column if before is None else np.concatenate([before, column])
        differs = values[1:] != values[:-1]
    else:
        joined = column if before is None else pa.concat_arrays([before, column])
        differs = _array_changes(joined)
    return np.concatenate([[False], differs]) if before is None else differs


def _array_changes(array: pa.Array) -> np.ndarray:
    if pa.types.is_fixed_size_list(array.type):
        dense = array.flatten().to_numpy().reshape(len(array), -1)
        return np.asarray((dense[1:] != dense[:-1]).any(axis=1))
    if pa.types.is_large_list(array.type):
        # equal lists have equal text; contexts of several ids are short and rare
        texts = np.array([str(each) for each in array.to_pylist()])
        return np.asarray(texts[1:] != texts[:-1])
    values = array.to_numpy(zero_copy_only=False)
    both_missing = (values[1:] != values[1:]) & (values[:-1] != values[:-1])
    return np.asarray((values[1:] != values[:-1]) & ~both_missing)
