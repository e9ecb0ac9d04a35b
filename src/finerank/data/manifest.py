"""The manifest of a prepared data set: what it holds, and what it was made from."""

from __future__ import annotations

import contextlib
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from finerank.data.paths import find_files
from finerank.errors import FinerankError
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from finerank.recipe import Recipe

FORMAT = 6
MANIFEST = "manifest.json"


def find_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a data set that stands there, of this format or another; empty if none.

    Raises:
        FinerankError: it is something else's manifest, so that the folder must not be replaced.
    """
    path = out / MANIFEST
    if not path.is_file():
        return {}
    with contextlib.suppress(ValueError):
        manifest = json.loads(path.read_text())
        if isinstance(manifest, dict) and {"format", "identity"} <= manifest.keys():
            return manifest
    raise FinerankError(
        str(out),
        expected="no folder, an empty one, or a prepared data set",
        found=f"a folder whose {MANIFEST} isn't one of finerank",
        fix="Choose another --out.",
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared data set.

    Raises:
        FinerankError: there is none, or another version of finerank wrote it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FinerankError(
            str(folder),
            expected=f"a prepared data set (with {MANIFEST})",
            found="none",
            fix="Run `finerank prepare RECIPE --out DIR` first.",
        )
    manifest: dict[str, Any] = json.loads(path.read_text())
    if manifest.get("format") != FORMAT:
        raise FinerankError(
            str(path),
            expected=f"format {FORMAT}",
            found=f"format {manifest.get('format')}",
            fix="Prepare it again with this version.",
        )
    return manifest


def data_part(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides how its data is prepared."""
    settings = recipe.model_dump(mode="json", exclude={"name", "model", "training"})
    for task in settings["tasks"].values():
        task.pop("weight")  # a matter of training
    return settings


def input_files(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """The files that a recipe names, each with the key that does."""
    of_log = recipe.log.format
    paths = {"log.path": (recipe.log.path, of_log)}
    paths |= {f"{home}.path": (table.path, table.format) for home, table in recipe.entities.items()}
    if recipe.split.by == "files":
        paths |= {f"split.{name}": (getattr(recipe.split, name), of_log) for name in SPLITS}
    for where, (path, kind) in paths.items():
        if path is not None:
            yield from ((where, file) for file in find_files(path, where, kind))


def stamps(files: Iterable[Path]) -> dict[str, dict[str, int]]:
    """What tells of each file whether it is still the same."""
    return {
        str(file): {"bytes": file.stat().st_size, "modified_ns": file.stat().st_mtime_ns}
        for file in files
    }


def identity_of(recipe: Recipe) -> dict[str, Any]:
    """What a prepared data set depends on: the recipe's data part and the input files."""
    files = stamps(file for _, file in input_files(recipe))
    digest = sha256(json.dumps(data_part(recipe), sort_keys=True).encode()).hexdigest()
    return {"recipe_sha256": digest, "files": files}
