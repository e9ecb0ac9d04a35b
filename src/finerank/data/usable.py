"""Which rows of the log are examples, which are events only, and which are neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ibis

from finerank.data.outcomes import check_events, with_outcomes
from finerank.data.rows import select_rows
from finerank.data.splits import NO_EXAMPLE, TRAIN, VALID, check_sizes, first_time, with_split
from finerank.data.thinning import Counted, shares_kept, thinned
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.data.engine import Engine
    from finerank.data.tables import RawTables
    from finerank.recipe import Recipe


@dataclass(frozen=True)
class Usable:
    """The rows of a log that can be used.

    A row that is no example, for one reason or another, may still enter histories and make the
    labels of others.

    Attributes:
        rows: with their labels, and ``split``, which is `NO_EXAMPLE` for events only.
        sizes: how many examples each split has.
        dropped: why rows are no examples, and how many.
        negatives_kept: of each task's labels of 0, the share that training keeps.
        negatives_counted: as `thinned` counts them, where it thins them out.
    """

    rows: ibis.Table
    sizes: dict[str, int]
    dropped: dict[str, int]
    negatives_kept: dict[str, float]
    negatives_counted: Counted


def usable_rows(tables: RawTables, engine: Engine, log_features: Sequence[str]) -> Usable:
    """Find them.

    Args:
        tables: the recipe's.
        engine: holds the rows that are found.
        log_features: the features whose column is in the log.

    Raises:
        FinerankError: there are none, or a label, time, event or split isn't what it must be.
    """
    recipe = tables.recipe
    negatives_kept = dict.fromkeys(recipe.tasks, 1.0)
    counted: Counted = {}
    if not tables.log.select(one=ibis.literal(1)).limit(1).to_pyarrow().num_rows:
        raise FinerankError("log", expected="rows", found="an empty table")
    rows = select_rows(tables.log, recipe, log_features, labels=True)
    rows = engine.load("log", rows, tables.sources)
    needed = [name for name in ("user", "item", "time") if name in rows.columns]
    reasons = {f"no {name}": rows[name].isnull() for name in needed}
    if "example" in rows.columns:
        reasons["not an example"] = ~rows.example
    if not recipe.has_event_tasks:
        reasons["no label"] = _unlabelled(rows, recipe)
    seen: ibis.Value = ibis.literal(value=False)
    counts = {"rows": rows.count()}
    for reason, condition in reasons.items():
        counts[reason] = (condition & ~seen).sum().fill_null(0)
        seen |= condition
    found = rows.agg(**counts).to_pyarrow().to_pylist()[0]
    _check_time(rows, recipe)
    dropped = {reason: int(found[reason]) for reason in reasons if found[reason]}
    if sum(dropped.values()) == found["rows"]:
        expected = f"rows with {', '.join([*needed, 'label'])}"
        if "example" in rows.columns:
            expected += f", and {recipe.log.examples}"
        raise FinerankError("log", expected=expected, found=f"none: {dropped}")
    others = recipe.event_histories or recipe.has_event_tasks or recipe.samples_negatives
    rows = rows.mutate(no_example=seen)
    rows = rows.drop("example") if "example" in rows.columns else rows
    rows = rows.drop_null(needed, how="any") if others and needed else rows.filter(~rows.no_example)
    rows = engine.keep("rows", with_split(rows, recipe, engine))
    if recipe.has_event_tasks:
        rows, unknown = _with_outcomes(rows, recipe, engine)
        dropped |= {"outcome not known yet": unknown} if unknown else {}
    if recipe.negatives is not None and recipe.negatives.keep is not None:
        rows, left_out, counted = thinned(rows, recipe, engine)
        negatives_kept = shares_kept(counted)
        dropped |= {"negative not kept": left_out} if left_out else {}
    examples = rows.filter(rows.split != NO_EXAMPLE)
    sizes = check_sizes(examples)
    _check_labels(examples, recipe)
    return Usable(rows, sizes, dropped, negatives_kept, counted)


def rows_to_fit_on(rows: ibis.Table, recipe: Recipe) -> ibis.Table:
    """What vocabularies and statistics are fitted on.

    The training examples, and those events which are no examples, but may be steps of a training
    request's history: they enter one, and come before validation begins (for each user by itself
    where ``split.by`` is last). A split without times tells of no event when it was known.

    Args:
        rows: as `Usable` has them.
    """
    if not recipe.event_histories or recipe.split.by not in ("time", "last"):
        return rows.filter(rows.split == TRAIN)
    begins = first_time(rows, VALID, recipe, column="time")
    early = rows.mutate(early=(rows.time < begins).fill_null(False))  # noqa: FBT003
    enters = ibis.or_(*(early[f"enters.{name}"] for name in recipe.event_histories))
    step = (early.split == NO_EXAMPLE) & early.early & enters
    return early.filter((early.split == TRAIN) | step).drop("early")


def _unlabelled(rows: ibis.Table, recipe: Recipe) -> ibis.Value:
    return ibis.and_(*(rows[f"label.{task}"].isnull() for task in recipe.tasks))


def _with_outcomes(rows: ibis.Table, recipe: Recipe, engine: Engine) -> tuple[ibis.Table, int]:
    """The rows with the labels that events make, and how many have none and are no examples."""
    check_events(rows, recipe)
    labelled = engine.keep("labelled", with_outcomes(rows, recipe))
    unknown = (labelled.split != NO_EXAMPLE) & _unlabelled(labelled, recipe)
    split = unknown.ifelse(NO_EXAMPLE, labelled.split).cast("int8")
    count = labelled.filter(unknown).count().to_pyarrow().as_py()
    return labelled.mutate(split=split), count


def _check_time(rows: ibis.Table, recipe: Recipe) -> None:
    if "time" not in rows.columns:
        return
    kind = rows.time.type()
    if not (kind.is_numeric() or kind.is_date() or kind.is_timestamp()):
        raise FinerankError(
            "log.time",
            expected="numbers, dates or times",
            found=f"{recipe.log.time!r} of type {kind}",
            fix="Cast it under log.derive, such as when: CAST(time AS TIMESTAMP).",
        )


def _check_labels(rows: ibis.Table, recipe: Recipe) -> None:
    for name in recipe.tasks:
        label = rows[f"label.{name}"]
        wrong = rows.filter(label.notnull() & ~label.isin([0.0, 1.0]))
        example = wrong.select(value=wrong[f"label.{name}"]).limit(1).to_pyarrow()
        if example.num_rows:
            raise FinerankError(
                f"tasks.{name}",
                expected="0 or 1, false or true, or null where unknown",
                found=f"{example[0][0].as_py():g}, in {wrong.count().to_pyarrow()} rows",
                fix="Write a condition, such as rating >= 4.",
            )
