"""The split of each raw row, by the recipe; where it is drawn, by what the prepared data says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finerank.checks.sql import text, time_sql
from finerank.settings import FilesSplit, LastSplit, TimeSplit

if TYPE_CHECKING:
    from finerank.checks.raw import RawLog
    from finerank.checks.stages import Stage


def with_parts(raw: RawLog) -> str:
    """The rows of ``picked``, with their split and what outcomes may be looked for."""
    source = " UNION ALL BY NAME ".join(_parted(raw, stage) for stage in raw.there)
    source = f"SELECT * EXCLUDE part, CASE WHEN kept THEN part ELSE -1 END AS split FROM ({source})"  # noqa: S608
    if raw.recipe.has_event_tasks:
        source = _with_cuts(raw, source)
    now = f"CASE WHEN kept AND stage < {len(raw.stages) - 1} THEN 0 ELSE split END"
    return f"SELECT * EXCLUDE split, split AS own, {now} AS split FROM ({source})"  # noqa: S608


def _parted(raw: RawLog, stage: Stage) -> str:
    """The rows of a stage with ``part``, the split that it gave them if they are examples."""
    split, rows = stage.split, f"(SELECT * FROM picked WHERE stage = {stage.number})"  # noqa: S608
    if isinstance(split, TimeSplit):
        valid, test = _bounds(raw, split, rows)
        return f"SELECT *, CASE WHEN time >= {test} THEN 2 WHEN time >= {valid} THEN 1 ELSE 0 END AS part FROM {rows}"  # noqa: E501, S608
    if isinstance(split, LastSplit):
        return (
            f"SELECT * EXCLUDE place, CASE WHEN place <= {split.test} THEN 2 "  # noqa: S608
            f"WHEN place <= {split.test + split.valid} THEN 1 ELSE 0 END AS part FROM (SELECT "
            "*, dense_rank() OVER (PARTITION BY user, kept ORDER BY time DESC) AS place "
            f"FROM {rows})"
        )
    if isinstance(split, FilesSplit):
        return f"SELECT *, file AS part FROM {rows}"  # noqa: S608
    keys = ", ".join(raw.stored.keys)
    if not keys or stage is not raw.stages[-1]:  # nothing tells
        return f"SELECT *, NULL AS part FROM {rows}"  # noqa: S608
    return (  # drawn: as the prepared rows of these keys
        "SELECT r.*, CASE WHEN first IS NULL THEN -1 WHEN first = last THEN first END "  # noqa: S608
        f"AS part FROM {rows} r LEFT JOIN (SELECT {keys}, min(split) AS first, max(split) AS "
        f"last FROM examples GROUP BY {keys}) USING ({keys})"
    )


def told(raw: RawLog) -> str:
    """The rows, those that preparation left out of training as no examples.

    Where a share of the training negatives is kept, the prepared data says which: of the rows
    of one user, item and time all, none, or some, and then which of them can't be told.
    """
    negatives = raw.recipe.negatives
    if negatives is None or negatives.keep is None:
        return "SELECT *, own IS NOT NULL AS told FROM parted"
    keys = ", ".join(raw.stored.keys)
    if not keys:
        return "SELECT *, own <> 0 AS told FROM parted"
    left_out = "split = 0 AND stored IS NULL"
    return (
        f"SELECT * EXCLUDE (split, own, there, stored), CASE WHEN {left_out} THEN -1 ELSE split "  # noqa: S608
        f"END AS split, CASE WHEN own = 0 AND {left_out} THEN -1 ELSE own END AS own, "
        "own IS NOT NULL AND (own <> 0 OR stored IS NULL OR stored >= there) AS told FROM "
        f"(SELECT *, count(*) FILTER (split = 0) OVER (PARTITION BY {keys}) AS there FROM parted) "
        f"LEFT JOIN (SELECT {keys}, count(*) AS stored FROM examples WHERE split = 0 "
        f"GROUP BY {keys}) USING ({keys})"
    )


def _bounds(raw: RawLog, split: TimeSplit, rows: str) -> tuple[float, float]:
    """The first times of the validation and of the test period."""
    if split.valid is not None and split.test is not None:
        ((count,),) = raw.ask(f"SELECT count(*) FROM {rows} WHERE kept")  # noqa: S608
        places = [
            min(count - round(count * share), count - 1)
            for share in (split.valid + split.test, split.test)
        ]
        first, second = (
            raw.ask(f"SELECT time FROM {rows} WHERE kept ORDER BY time LIMIT 1 OFFSET {n}")  # noqa: S608
            for n in places
        )
        return first[0][0], second[0][0]
    assert raw.recipe.log.time is not None
    kind = raw.types("log_said")[raw.recipe.log.time]
    times = (
        time_sql(f"CAST({text(str(each))} AS {kind})", kind)
        for each in (split.valid_from, split.test_from)
    )
    ((valid, test),) = raw.ask(f"SELECT {', '.join(times)}")
    return valid, test


def _with_cuts(raw: RawLog, source: str) -> str:
    """Rows whose outcomes are all unknown are no examples."""
    over = "(PARTITION BY user)" if isinstance(raw.recipe.split, LastSplit) else "()"
    cuts = (
        f"CASE split WHEN 0 THEN min(time) FILTER (split = 1) OVER {over} "
        f"WHEN 1 THEN min(time) FILTER (split = 2) OVER {over} END"
    )
    known = " OR ".join(
        f'"label.{name}" IS NOT NULL'
        if task.within is None
        else f"time + {raw.duration(task.within)} < cut "
        f"OR (closed AND time + {raw.duration(task.within)} = cut)"
        for name, task in raw.recipe.tasks.items()
    )
    return (
        f"SELECT * EXCLUDE split, CASE WHEN {known} THEN split ELSE -1 END AS split FROM "  # noqa: S608
        "(SELECT * EXCLUDE next, COALESCE(next, max(time) OVER ()) AS cut, next IS NULL AS "
        f"closed FROM (SELECT *, {cuts} AS next FROM ({source})))"
    )
