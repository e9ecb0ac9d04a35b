"""From raw logs and tables to the prepared data set: order, encode, split, build requests."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finerank.data.manifest import (
    FORMAT,
    MANIFEST,
    find_manifest,
    identity_of,
    read_manifest,
)
from finerank.errors import FinerankError
from finerank.folders import written_whole
from finerank.garbage import old_objects_left_alone
from finerank.progress import Progress, silent

if TYPE_CHECKING:
    from finerank.data.engine import EngineName
    from finerank.recipe import Recipe


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did.

    Attributes:
        folder: the prepared data set.
        manifest: what it holds, from which inputs, and the report.
        unchanged: whether it was there already, made from the same recipe and inputs.
    """

    folder: Path
    manifest: dict[str, Any]
    unchanged: bool


def prepare(
    recipe: Recipe,
    out: str | Path,
    *,
    memory: str | None = None,
    engine: EngineName = "duckdb",
    spark_master: str | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Turn the raw tables of a recipe into a prepared data set.

    Nothing is done where the folder holds the data set of this recipe and these inputs already.

    Args:
        recipe: its ``model`` and ``training`` parts have no influence here.
        out: the folder; replaced as a whole, at the end.
        memory: what preparation may use, such as 2GB; rather than more it spills to disk beside
            ``out``. 1 GB of it, at most half, is for the rows in hand, the vocabularies and what
            DuckDB takes beyond its share; tens of millions of different ids take more. Four fifths
            of the machine's where left out. Of Spark, the heap of the driver.
        engine: what reads, joins, sorts and groups; the result is the same.
        spark_master: where Spark runs, such as ``local[4]``; as Spark is configured if left out.
        progress: told of each step.

    Raises:
        FinerankError: the recipe and the tables don't fit, or a value is not what it must be.
    """
    out = Path(out)
    identity = identity_of(recipe)
    manifest = find_manifest(out)
    if manifest.get("format") == FORMAT and manifest.get("identity") == identity:
        settings = recipe.model_dump(exclude_none=True)
        if manifest["recipe"] != json.loads(json.dumps(settings, default=str)):
            manifest["recipe"] = settings  # its model or training part is new
            write_manifest(out, manifest)
        return Prepared(out, manifest, unchanged=True)
    # A data set that is there already needs neither engine nor what comes with it, 90 MB.
    from finerank.data.engine import open_engine  # noqa: PLC0415
    from finerank.data.preparation import Preparation  # noqa: PLC0415

    started = time.perf_counter()
    with old_objects_left_alone(), written_whole(out, marker=MANIFEST) as folder:
        with open_engine(folder / "engine", memory, engine, spark_master) as opened:
            manifest = Preparation(recipe, opened, folder, progress).run()
        if identity_of(recipe) != identity:
            raise FinerankError(
                "the recipe's tables",
                expected="files that stay as they are until they are read",
                found="that some changed meanwhile",
                fix="Prepare again when nothing writes to them.",
            )
        manifest = {
            "format": FORMAT,
            "identity": identity,
            "recipe": recipe.model_dump(exclude_none=True),
            **manifest,
            "seconds": round(time.perf_counter() - started, 3),
        }
        write_manifest(folder, manifest)
    return Prepared(out, read_manifest(out), unchanged=False)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a data set, whole or not at all."""
    unfinished = folder / f".{MANIFEST}"
    unfinished.write_text(json.dumps(manifest, indent=2, default=str))
    unfinished.rename(folder / MANIFEST)
