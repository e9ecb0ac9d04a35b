"""Labels that say what followed: did an event of this type come, of that user with that item?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis

from finerank.data.durations import as_duration
from finerank.data.splits import TEST, TRAIN, VALID, asked, first_time
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from ibis.expr import types

    from finerank.recipe import Recipe


def with_outcomes(rows: types.Table, recipe: Recipe) -> types.Table:
    """The rows with the labels of those tasks that name an event.

    The label of a row is 1 where such an event of the same user and item is in the log at the
    row's time or up to the horizon after it, else 0. It is null where the horizon isn't over
    before the next split begins (for each user by itself where ``split.by`` is last) or, for the
    test set, before the log ends: so no label tells of a later split, and a row whose outcome
    isn't known yet counts neither as 1 nor as 0, even if its event has come already. Were those
    counted, the last rows of a split would be positives only.

    Args:
        rows: every usable row, examples and others, with ``event`` and ``split``.

    Raises:
        FinerankError: a horizon isn't of the time column's kind.
    """
    tasks = {name: task for name, task in recipe.tasks.items() if task.event is not None}
    if rows.time.type().is_date():
        rows = rows.mutate(moment=rows.time.cast("timestamp"))
    else:
        rows = rows.mutate(moment=rows.time)
    # all rows of one time are in the frame of each of them
    later = ibis.window(group_by=["user", "item"], order_by=rows.moment.desc(), range=(None, 0))
    cut, is_last = _cut(rows, recipe)
    labels: dict[str, ibis.Value] = {}
    for name, task in tasks.items():
        assert task.within is not None
        end = rows.moment + _duration(task.within, rows, f"tasks.{name}.within")
        next_one = (rows.event == task.event).ifelse(rows.moment, None).min().over(later)
        known = is_last.ifelse(end <= cut, end < cut)
        followed = (next_one <= end).fill_null(False)  # noqa: FBT003  (the value for null)
        labels[f"label.{name}"] = known.ifelse(followed.cast("float64"), None)
    return rows.mutate(**labels).drop("moment")


def check_events(rows: types.Table, recipe: Recipe) -> None:
    """Check that every event that a task names is in the log.

    Raises:
        FinerankError: one isn't.
    """
    named = {task.event: name for name, task in recipe.tasks.items() if task.event is not None}
    counted = rows.group_by("event").agg(n=ibis._.count()).order_by(ibis.desc("n"), "event")
    there = counted.event.to_pyarrow().to_pylist()
    for event, name in named.items():
        if event not in there:
            raise FinerankError(
                f"tasks.{name}.event",
                expected=f"a value of {recipe.log.event!r}",
                found=f"{event!r}, which no row has",
                fix=f"There is: {', '.join(str(each) for each in there[:10])}.",
            )


def _cut(rows: types.Table, recipe: Recipe) -> tuple[ibis.Value, ibis.Value]:
    """Up to where a row's outcome may be looked for, and whether that moment is included.

    The first moment of the next split, not included; for the test set the log's last one.
    """
    valid, test = (first_time(rows, split, recipe, column="moment") for split in (VALID, TEST))
    end = asked(rows.agg(end=rows.moment.max()))
    cut = ibis.cases((rows.split == TRAIN, valid), (rows.split == VALID, test))
    return cut.fill_null(end), (rows.split == TEST) | cut.isnull()


def _duration(written: float | str, rows: types.Table, where: str) -> ibis.Value:
    """A duration as what is added to a moment."""
    numbers = rows.moment.type().is_numeric()
    duration = as_duration(written, numbers=numbers, where=where)
    return ibis.literal(duration) if numbers else ibis.interval(microseconds=int(duration))
