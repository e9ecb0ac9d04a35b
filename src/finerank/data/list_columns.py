"""Histories that the log holds ready-made, as columns of the engine: looked for, selected, counted.

In the rows each is a column ``list.HISTORY.FEATURE``, as the log has it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import ibis

from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finerank.data.engine import Engine
    from finerank.recipe import Recipe
    from finerank.settings import HistorySettings

_WHOLE_NUMBER = r"^-?[0-9]{1,18}$"  # as text that a vocabulary of numbers knows


def list_columns(recipe: Recipe) -> dict[str, str]:
    """Our name of each list -> the log's column."""
    return {
        f"list.{name}.{feature}": column
        for name, history in recipe.list_histories.items()
        for feature, column in (history.lists or {}).items()
    }


def check_lists(log: ibis.Table, recipe: Recipe) -> None:
    """Check that the columns of ready-made histories, which are there, hold lists.

    Raises:
        FinerankError: one holds something else, or lists that its feature can't be read from.
    """
    for name, history in recipe.list_histories.items():
        for feature, column in (history.lists or {}).items():
            kind, where = log[column].type(), f"histories.{name}.lists.{feature}"
            if not (kind.is_array() if history.separator is None else kind.is_string()):
                beside = "without" if history.separator is None else "beside"
                raise FinerankError(
                    where,
                    expected="a list column, or text and a separator",
                    found=f"{column!r} of type {kind} {beside} a separator",
                )
            value = kind if history.separator is not None else kind.value_type
            as_number = value.is_numeric() or value.is_boolean() or history.separator is not None
            is_id = recipe.features[feature].type == "id"
            if value.is_nested() or not (is_id or as_number):
                expected = "lists of ids" if is_id else "lists of numbers"
                raise FinerankError(where, expected=expected, found=f"{column!r} of type {kind}")


def step_values(
    train: ibis.Table, recipe: Recipe, feature: str, engine: Engine
) -> Iterator[tuple[str, ibis.Table]]:
    """The raw values of a feature in the steps of ready-made histories that models can train on.

    Args:
        train: the training examples.
        engine: holds them.

    Yields:
        The key of the recipe, and a table: ``value`` and how often, ``n``.
    """
    for name, history in recipe.list_histories.items():
        if feature in (history.lists or ()):
            yield f"histories.{name}.lists.{feature}", _kept(train, name, feature, history, engine)


def step_items(
    train: ibis.Table, recipe: Recipe, feature: str, engine: Engine
) -> Iterator[ibis.Table]:
    """The items of those steps at which a feature is looked up in the item table.

    Args:
        train: the training examples.
        engine: holds them.

    Yields:
        A table: ``value``, the raw id, and how often, ``n``.
    """
    for name, history in recipe.list_histories.items():
        by = recipe.item_list(history)
        if feature in history.features and feature not in (history.lists or ()) and by is not None:
            yield _kept(train, name, by, history, engine)


def _kept(
    train: ibis.Table, name: str, feature: str, history: HistorySettings, engine: Engine
) -> ibis.Table:
    rows = train.select(lists=train[f"list.{name}.{feature}"])
    return engine.per_row(rows, partial(_steps, history))


def _steps(history: HistorySettings, rows: ibis.Table) -> ibis.Table:
    lists = rows.lists
    if history.separator is not None:
        lists = lists.split(history.separator)
    length = history.max_length
    lists = lists[-length:] if history.newest == "last" else lists[:length]
    values = rows.select(value=lists, n=ibis.literal(1, "int64"))
    values = values.mutate(value=values.value.unnest())
    if history.separator is not None:
        values = values.mutate(value=values.value.strip())
        values = values.filter(values.value != "")
    return values.filter(values.value.notnull())


def as_kind(values: ibis.Table, kind: ibis.DataType) -> ibis.Table:
    """Ids of steps as the ids of their space are: text as whole numbers, or the reverse.

    Args:
        values: with the column ``value``.
    """
    if values.value.type().is_string() and kind.is_integer():
        values = values.filter(values.value.re_search(_WHOLE_NUMBER))
    return values.mutate(value=values.value.cast(kind.copy(nullable=True)))
