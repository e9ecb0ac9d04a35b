"""What a log may be wrong in, though it can be prepared: told in the report, never repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ibis

from finerank.data.rows import as_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finerank.data.schema import Home
    from finerank.data.tables import RawTables

_EPOCH = {  # numbers that are times from 1990 to 2100, by their unit
    unit: (631_152_000 * factor, 4_102_444_800 * factor)
    for unit, factor in (("seconds", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9))
}


def doubts_of_times(rows: ibis.Table) -> list[str]:
    """Times of mixed units, times that stand for none, and times to come.

    Args:
        rows: the log's usable ones.
    """
    if "time" not in rows.columns:
        return []
    time, kind = rows.time, rows.time.type()
    if not kind.is_numeric():
        moment = time.cast("timestamp")
        found = _counted(
            rows,
            {
                "old": moment <= ibis.timestamp("1970-01-01"),
                "new": moment > ibis.now().cast("timestamp") + ibis.interval(days=1),
            },
        )
        told = {"old": "at or before 1970-01-01", "new": "in the future"}
        return [
            f"{found[name]:,} rows have a time {when}" for name, when in told.items() if found[name]
        ]
    conditions = {unit: time.between(*bounds) for unit, bounds in _EPOCH.items()}
    found = _counted(rows, {**conditions, "old": time <= 0, "all": time.notnull()})
    units = {unit: found[unit] for unit in _EPOCH if found[unit]}
    if sum(units.values()) * 2 <= found["all"]:
        return []  # no times since 1970, but numbers of another kind
    doubts = []
    if len(units) > 1:
        listed = ", ".join(f"{unit} in {n:,} rows" for unit, n in units.items())
        doubts.append(f"times seem to be of several units: {listed}")
    if found["old"]:
        doubts.append(f"{found['old']:,} rows have a time of zero or less")
    return doubts


def doubts_of_tables(
    rows: ibis.Table, kept: Mapping[Home, ibis.Table], tables: RawTables
) -> list[str]:
    """Users or items that their table lacks, and rows of a table without an id.

    Args:
        rows: the log's usable ones.
        kept: the tables' rows with an id, in the engine of the log's.
        tables: as they were read.
    """
    doubts = []
    for home, table in tables.entities.items():
        settings = tables.settings_of(home)
        key = table.select(key=as_id(table[settings.key], f"{home}.key"))
        if without := int(key.filter(key.key.isnull()).count().to_pyarrow().as_py()):
            doubts.append(f"{without:,} rows of {home} have no {settings.key}")
        of_log = rows.select(key=rows[home[:-1]]).distinct()
        lacking = int(of_log.anti_join(kept[home], "key").count().to_pyarrow().as_py())
        if lacking:
            all_ = int(of_log.count().to_pyarrow().as_py())
            doubts.append(f"{lacking:,} of {all_:,} {home} of the log are not in their table")
    return doubts


def doubts_of_labels(rates: dict[str, dict[str, float]]) -> list[str]:
    """Splits whose labels are all of one class.

    Args:
        rates: split -> task -> the share of labels that are 1.
    """
    return [
        f"every known label of {task} is {rate:.0f} in {split}"
        for split, by_task in rates.items()
        for task, rate in by_task.items()
        if rate in (0.0, 1.0)
    ]


def _counted(rows: ibis.Table, conditions: dict[str, ibis.Value]) -> dict[str, Any]:
    sums = {name: condition.sum().fill_null(0) for name, condition in conditions.items()}
    found: dict[str, Any] = rows.agg(**sums).to_pyarrow().to_pylist()[0]
    return found
