"""The stages of a data set, what was prepared first and each appending, and their raw files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from finerank.data.manifest import input_files
from finerank.errors import FinerankError
from finerank.settings import SPLITS, FilesSplit, SplitSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finerank.checks.stored import Stored
    from finerank.data.schema import Home


@dataclass(frozen=True)
class Stage:
    """Rows that were prepared or appended at once.

    Attributes:
        number: 0 for what was prepared first.
        split: how its rows were divided then; later ones make all of them train.
        logs: key or path that names it in an error, path, and the number of the split that the
            file stands for, where files are given per split.
        tables: the tables of users and items then.
        files: what each raw file was: ``bytes`` and ``modified_ns``.
        first_request: of its training rows, in the training set.
        lost: the log or the tables whose files are gone or have changed, with the error.
    """

    number: int
    split: SplitSettings
    logs: tuple[tuple[str, str, int], ...]
    tables: dict[Home, str]
    files: dict[str, dict[str, int]]
    first_request: int
    lost: dict[Home, FinerankError]

    def table_is_as_of(self, other: Stage, home: Home) -> bool:
        """Whether a table was the same at another stage."""
        if self.tables[home] != other.tables[home]:
            return False
        path = self.tables[home]
        return _of_path(path, self.files) == _of_path(path, other.files)


def find_stages(stored: Stored) -> tuple[Stage, ...]:
    """The stages of a data set, in order.

    Raises:
        FinerankError: raw files of the last stage are gone or have changed.
    """
    recipe, manifest = stored.recipe, stored.manifest
    split: SplitSettings = recipe.split
    if isinstance(split, FilesSplit):
        logs = [(f"split.{s}", str(getattr(split, s)), n) for n, s in enumerate(SPLITS)]
    else:
        logs = [("log.path", str(recipe.log.path), 0)]
    tables: dict[Home, str] = {home: each.path for home, each in recipe.entities.items()}
    found = [(split, logs, tables, manifest["identity"]["files"], 0)]
    for part in manifest.get("appended", []):
        logs = [(path, path, 0) for path in part["log"]]
        split = TypeAdapter(SplitSettings).validate_python(part["split"])
        files, first = part["files"], part["first_new_train_request"]
        found.append((split, logs, part["tables"], files, first))
    stages = [
        Stage(number, split, tuple(logs), tables, files, first, _lost(stored, tables, files))
        for number, (split, logs, tables, files, first) in enumerate(found)
    ]
    for error in stages[-1].lost.values():
        raise error
    if len(stages) == 1:
        _check_no_others(stored)
    return tuple(stages)


def _lost(
    stored: Stored, tables: dict[Home, str], files: dict[str, dict[str, int]]
) -> dict[Home, FinerankError]:
    of_tables: dict[Home, dict[str, Any]] = {h: _of_path(p, files) for h, p in tables.items()}
    named = {name for each in of_tables.values() for name in each}
    parts: dict[Home, dict[str, Any]] = {
        "log": {name: stamp for name, stamp in files.items() if name not in named},
        **of_tables,
    }
    errors = {home: next(_differences(stored, each), None) for home, each in parts.items()}
    return {home: error for home, error in errors.items() if error is not None}


def _differences(stored: Stored, files: dict[str, dict[str, int]]) -> Iterator[FinerankError]:
    """The raw files that are gone or have changed since."""
    fix = f"Prepare {stored.folder} again, or bring the files back."
    for name, known in files.items():
        file = Path(name)
        if not file.is_file():
            expected = f"the file that {stored.folder} was prepared from"
            yield FinerankError(name, expected=expected, found="no such file", fix=fix)
            continue
        stat = file.stat()
        if (stat.st_size, stat.st_mtime_ns) != (known["bytes"], known["modified_ns"]):
            changed = datetime.fromtimestamp(stat.st_mtime, UTC).isoformat(timespec="seconds")
            yield FinerankError(
                name,
                expected=f"the file as it was when {stored.folder} was prepared "
                f"({known['bytes']:,} bytes)",
                found=f"one of {stat.st_size:,} bytes, changed {changed}",
                fix=fix,
            )


def _check_no_others(stored: Stored) -> None:
    """Check that the recipe names no more files than those that were prepared."""
    known = stored.manifest["identity"]["files"]
    for where, file in input_files(stored.recipe):
        if str(file) not in known:
            raise FinerankError(
                where,
                expected=f"the files that {stored.folder} was prepared from",
                found=f"another one, {file}",
                fix=f"Prepare {stored.folder} again, or bring the files back.",
            )


def _of_path(path: str, files: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Those of some files that a path means: itself, all of a folder, or those of a pattern."""
    return {name: stamp for name, stamp in files.items() if _means(path, PurePath(name))}


def _means(path: str, file: PurePath) -> bool:
    if str(file) == path or PurePath(path) in file.parents:
        return True
    return fnmatch(str(file), path) if "**" in path else file.match(path)
