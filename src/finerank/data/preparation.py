"""The steps from raw logs and tables to a prepared data set's folder."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from finerank.data.assembly import (
    doubts,
    encode_entities,
    entering,
    in_order,
    kept_entities,
    log_features,
    report_of_rows,
    report_of_set,
    write_examples,
)
from finerank.data.durations import as_duration
from finerank.data.encoding import save_encodings
from finerank.data.entity_writer import check_keys
from finerank.data.example_writer import ExampleWriter
from finerank.data.fitting import Fitting
from finerank.data.list_writer import ListWriter
from finerank.data.negatives import fit_negatives
from finerank.data.row_encoder import RowEncoder
from finerank.data.schema import Feature, History, Schema
from finerank.data.tables import RawTables
from finerank.data.usable import rows_to_fit_on, usable_rows

if TYPE_CHECKING:
    from pathlib import Path

    import ibis

    from finerank.data.encoding import Encoding
    from finerank.data.engine import Engine
    from finerank.progress import Progress
    from finerank.recipe import Recipe


class Preparation:
    """One run of `finerank.prepare`, whose engine is open already."""

    def __init__(self, recipe: Recipe, engine: Engine, folder: Path, progress: Progress) -> None:
        self.recipe, self.engine, self.folder, self.progress = recipe, engine, folder, progress
        self.tables = RawTables(recipe, engine.raw)

    def run(self) -> dict[str, Any]:
        """Write the data set; what its manifest says of it: schema and report."""
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
        with self.progress("ordering histories", None) as advance:
            for history in schema.event_histories:
                events = entering(rows, history, schema)
                for piece in in_order(self.engine, events, ["user", "time", "item"]):
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
