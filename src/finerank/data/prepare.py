"""From raw logs and tables to the prepared data set: order, encode, split, build requests."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finerank.data.assembly import (
    doubts,
    encode_entities,
    in_order,
    kept_entities,
    log_features,
    report_of_rows,
    report_of_set,
    write_examples,
)
from finerank.data.durations import as_duration
from finerank.data.encoding import save_encodings
from finerank.data.engine import open_engine
from finerank.data.entity_writer import check_keys
from finerank.data.example_writer import ExampleWriter
from finerank.data.fitting import Fitting
from finerank.data.list_columns import list_columns
from finerank.data.list_writer import ListWriter
from finerank.data.manifest import (
    FORMAT,
    MANIFEST,
    find_manifest,
    identity_of,
    read_manifest,
)
from finerank.data.negatives import fit_negatives
from finerank.data.row_encoder import RowEncoder
from finerank.data.schema import Feature, History, Schema
from finerank.data.tables import RawTables
from finerank.data.usable import rows_to_fit_on, usable_rows
from finerank.errors import FinerankError
from finerank.folders import written_whole
from finerank.progress import Progress, silent

if TYPE_CHECKING:
    import ibis

    from finerank.data.encoding import Encoding
    from finerank.data.engine import Engine, EngineName
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
            ``out``. 400 MB of it, at most half, are for the rows in hand and the vocabularies; tens
            of millions of different ids take more. Four fifths of the machine's where left out. Of
            Spark, the heap of the driver.
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
    started = time.perf_counter()
    with written_whole(out, marker=MANIFEST) as folder:
        with open_engine(folder / "engine", memory, engine, spark_master) as opened:
            manifest = _Preparation(recipe, opened, folder, progress).run()
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


class _Preparation:
    """One run of `prepare`."""

    def __init__(self, recipe: Recipe, engine: Engine, folder: Path, progress: Progress) -> None:
        self.recipe, self.engine, self.folder, self.progress = recipe, engine, folder, progress
        self.tables = RawTables(recipe, engine.raw)

    def run(self) -> dict[str, Any]:
        with self.progress("reading the log", None):
            usable = usable_rows(self.tables, self.engine, log_features(self.tables))
            rows = usable.rows
            kept = kept_entities(self.tables, self.engine)
            for home, table in kept.items():
                check_keys(rows, table, home)
        with self.progress("fitting vocabularies", None):
            train = rows_to_fit_on(rows, self.recipe)
            encodings = Fitting(train, self.tables, kept, self.engine).encodings()
            schema = self._schema(rows, encodings)
            save_encodings(self.folder / "encodings", encodings, schema)
        with self.progress("encoding users and items", None):
            entities = encode_entities(rows, kept, self.tables, schema, encodings, self.folder)
        encoder = RowEncoder.of(encodings, entities)
        negatives = None
        if self.recipe.samples_negatives:
            with self.progress("counting items to sample from", None):
                negatives = fit_negatives(rows, self.recipe, schema, encoder, entities)
                negatives.sampler.save(self.folder / "negatives")
        with contextlib.closing(
            ExampleWriter(
                self.folder,
                schema,
                encoder,
                entities,
                lists=ListWriter(self.folder, self.recipe, encoder),
                negatives=negatives,
            )
        ) as writer:
            self._write_events(writer, schema, rows)
            repeats = write_examples(
                writer, usable, self.tables, schema, self.engine, self.progress
            )
        report = {
            **report_of_rows(usable, repeats),
            **report_of_set(writer, schema, entities, negatives),
            "warnings": doubts(writer, rows, kept, self.tables),
        }
        return {"schema": schema.to_json(), "report": report}

    def _write_events(self, writer: ExampleWriter, schema: Schema, rows: ibis.Table) -> None:
        lists = list_columns(self.recipe)
        with self.progress("ordering histories", None) as advance:
            for history in schema.event_histories:
                entering = rows.filter(rows[f"enters.{history.name}"]).drop(*lists)
                for piece in in_order(self.engine, entering, ["user", "time", "item"]):
                    writer.add_events(history, piece)
                    advance(piece.num_rows)
                writer.end_events(history)

    def _schema(self, rows: ibis.Table, encodings: dict[str, Encoding]) -> Schema:
        recipe = self.recipe
        features = tuple(
            Feature(
                name=name,
                side=settings.side,
                type=settings.type,
                home=self.tables.home_of(name),
                column=recipe.column_of(name),
                size=encodings[name].size,
                space=recipe.space_of(name) if settings.type in ("id", "ids") else None,
                separator=settings.separator,
            )
            for name, settings in recipe.features.items()
        )
        time = None
        if "time" in rows.columns:
            time = "number" if rows.time.type().is_numeric() else "moment"
        histories = tuple(
            History(
                name,
                tuple(settings.features),
                settings.max_length,
                None
                if settings.max_age is None
                else as_duration(
                    settings.max_age, numbers=time == "number", where=f"histories.{name}.max_age"
                ),
                tuple(settings.lists or ()),
            )
            for name, settings in recipe.histories.items()
        )
        return Schema(features, histories, tuple(recipe.tasks), time)
