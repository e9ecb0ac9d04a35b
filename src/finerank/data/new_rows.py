"""Rows that are to be appended to a prepared data set: how they are read, and whether they fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from finerank.data.entity_writer import check_keys
from finerank.data.events import EventStore
from finerank.data.storage import read_batch
from finerank.data.times import as_times
from finerank.errors import FinerankError
from finerank.recipe import Recipe
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import ibis

    from finerank.data.dataset import Dataset
    from finerank.data.schema import Home


def recipe_of_new_rows(
    old: Dataset,
    logs: Sequence[str],
    users: str | Path | None,
    items: str | Path | None,
    split: Mapping[str, Any] | None,
) -> Recipe:
    """The recipe by which the new rows are read and divided.

    Args:
        old: what they are appended to.
        logs: their files.
        users: the table of users now; that of the old recipe where left out.
        items: likewise.
        split: of the new rows by time; as before where left out.

    Raises:
        FinerankError: rows can't be appended to this data set, or not with these tables or split.
    """
    recipe, where = old.recipe, str(old.folder)
    if not logs:
        raise FinerankError("log", expected="files with new rows", found="none")
    for found in (
        "tasks with event, whose old labels the new rows may change" * recipe.has_event_tasks,
        "a log without time" * (recipe.log.time is None),
    ):
        if found:
            raise FinerankError(
                where,
                expected="a data set to which rows can be appended",
                found=found,
                fix="Prepare all of the log anew.",
            )
    content = recipe.model_dump(exclude_unset=True)
    content["log"]["path"] = logs[0]
    for home, path in (("users", users), ("items", items)):
        if path is not None:
            if content.get(home) is None:
                raise FinerankError(home, expected="none, as the recipe has none", found=str(path))
            content[home]["path"] = str(Path(path).resolve())
    appended = old.manifest.get("appended", [])
    given = split or (appended[-1]["split"] if appended else content["split"])
    content["split"] = {"by": "time", **given}
    if split is None and ("valid_from" in given or given.get("by") == "files"):
        raise FinerankError(
            "split",
            expected="valid and test (shares), or valid_from and test_from, of the new rows",
            found=f"none, and those of {where} are of the old rows",
        )
    return Recipe.parse(content, where="split")


def checked_rows(
    rows: ibis.Table, old: Dataset, tables: Mapping[Home, ibis.Table], where: str
) -> ibis.Table:
    """The new rows, with times as the old ones have them.

    Args:
        rows: the usable ones.
        old: what they are appended to.
        tables: their users and items, as `select_entities` gives them.
        where: their files, in an error.

    Raises:
        FinerankError: their ids or times are of another type, or some don't come after the old
            rows in time.
    """
    kind = "number" if rows.time.type().is_numeric() else "moment"
    if kind != old.schema.time:
        raise FinerankError("log.time", expected=f"a {old.schema.time}, as before", found=kind)
    for side, entities in (("user", old.users), ("item", old.items)):
        if entities is None:
            continue
        found, expected = rows[side].type(), entities.keys.values.type
        if found.is_integer() != pa.types.is_int64(expected):
            raise FinerankError(
                f"log.{side}",
                expected=f"ids of the type that was prepared, {expected}",
                found=str(found),
                fix="Cast the column in the new files, or prepare all of the log anew.",
            )
    for home, table in tables.items():
        check_keys(rows, table, home)
    last, dtype = _last_time(old)
    _check_after(rows, old, last, where, whole=dtype.kind == "i")
    if kind == "number":
        rows = rows.mutate(time=rows.time.cast("int64" if dtype.kind == "i" else "float64"))
    return rows


def _check_after(rows: ibis.Table, old: Dataset, last: Any, where: str, *, whole: bool) -> None:  # noqa: ANN401
    late, example = 0, ""
    for piece in rows.select("time").to_pyarrow_batches():
        times = as_times(piece.column("time"))
        if whole and times.dtype.kind == "f" and (times % 1 != 0).any():
            raise FinerankError("log.time", expected="whole numbers, as before", found="fractions")
        early = times <= last
        if early.any() and not late:
            example = str(piece.column("time")[int(early.argmax())].as_py())
        late += int(early.sum())
    if late:
        shown = np.datetime64(int(last), "us") if old.schema.time == "moment" else last
        raise FinerankError(
            where,
            expected=f"rows after the last time of {old.folder}, {shown}",
            found=f"{late:,} at or before it, such as one at {example}",
            fix="Leave them out if they are in already; else prepare all of the log anew.",
        )


def _last_time(old: Dataset) -> tuple[Any, np.dtype[Any]]:
    """The newest time of all that is prepared, and what times are stored as."""
    times = [
        np.asarray(store.time) for store in old.stores.values() if isinstance(store, EventStore)
    ]
    for split in SPLITS:
        requests = read_batch(old.folder / split / "requests.arrow")
        times.append(np.asarray(requests.column("time")))
    return max(each.max() for each in times if len(each)), times[-1].dtype
