"""New rows of a log behind a prepared data set, whose own rows are not prepared again."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
import numpy as np
import pyarrow as pa

from finerank.data.dataset import Dataset
from finerank.data.doubts import doubts_of_labels, doubts_of_tables, doubts_of_times
from finerank.data.encoding import save_encodings
from finerank.data.engine import open_engine
from finerank.data.entity_rows import select_entities
from finerank.data.entity_writer import write_entities
from finerank.data.events import EventStore
from finerank.data.example_writer import ExampleWriter
from finerank.data.files import find_files
from finerank.data.fitting import Fitting
from finerank.data.grown import (
    EncodedExamples,
    earlier_examples,
    grown_encodings,
    merge_events,
)
from finerank.data.grown_negatives import grown_negatives
from finerank.data.list_writer import ListWriter
from finerank.data.manifest import FORMAT, MANIFEST, read_manifest, stamps
from finerank.data.new_rows import checked_rows, recipe_of_new_rows
from finerank.data.prepare import Prepared, in_order, write_manifest
from finerank.data.repeats import Repeats
from finerank.data.rows import RowEncoder
from finerank.data.sampling import NegativeSampler
from finerank.data.tables import RawTables
from finerank.data.usable import rows_to_fit_on, usable_rows
from finerank.errors import FinerankError
from finerank.folders import written_whole
from finerank.progress import Progress, silent
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from finerank.data.engine import Engine
    from finerank.data.schema import Schema
    from finerank.data.usable import Usable
    from finerank.recipe import Recipe


def append(
    prepared: str | Path,
    *,
    log: str | Path | Sequence[str | Path],
    out: str | Path,
    users: str | Path | None = None,
    items: str | Path | None = None,
    split: Mapping[str, Any] | None = None,
    memory: str | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Extend a prepared data set with new rows of its log, and write it to another folder.

    All earlier examples train; the new rows are divided by ``split``. Ids, means and deviations
    stay as they are; new ids come behind the old ones. The old files of the log are not read.

    Args:
        prepared: the data set's folder.
        log: the files, folders or patterns of the new rows, written as the recipe's log.
        out: the folder; replaced as a whole, at the end.
        users: the table of users now; that of the recipe where left out.
        items: likewise.
        split: of the new rows by time: ``valid`` and ``test`` (shares), or ``valid_from`` and
            ``test_from``; as before where left out.
        memory: as `prepare` takes it.
        progress: told of each step.

    Raises:
        FinerankError: the data set can't be extended, or the new rows don't fit it.
    """
    started, old, out = time.perf_counter(), Dataset(prepared), Path(out)
    logs = [str(Path(each).resolve()) for each in ([log] if isinstance(log, str | Path) else log)]
    recipe = recipe_of_new_rows(old, logs, users, items, split)
    with written_whole(out, marker=MANIFEST) as folder:
        with open_engine(folder / "engine", memory) as engine:
            manifest = _Appending(old, recipe, logs, engine, folder, progress).run()
        manifest["seconds"] = round(time.perf_counter() - started, 3)
        write_manifest(folder, manifest)
    return Prepared(out, read_manifest(out), unchanged=False)


class _Appending:
    """One run of `append`."""

    def __init__(
        self,
        old: Dataset,
        recipe: Recipe,
        logs: Sequence[str],
        engine: Engine,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.old, self.recipe, self.logs = old, recipe, logs
        self.engine, self.folder, self.progress = engine, folder, progress
        self.tables = RawTables(recipe, engine.raw, logs=logs)
        for feature in old.schema.features:
            if (home := self.tables.home_of(feature.name)) != feature.home:
                raise FinerankError(
                    f"features.{feature.name}",
                    expected=f"its column in the {feature.home}, where it was",
                    found=f"it in the {home}",
                )

    def run(self) -> dict[str, Any]:
        old, recipe = self.old, self.recipe
        with self.progress("reading the new rows", None):
            in_log = [f.name for f in old.schema.features if f.home == "log"]
            usable = usable_rows(self.tables, self.engine, in_log)
            tables = {
                home: self.engine.keep(home, select_entities(self.tables, home))
                for home in self.tables.entities
            }
            rows = checked_rows(usable.rows, old, tables, ", ".join(self.logs))
        with self.progress("extending vocabularies", None):
            train = rows_to_fit_on(rows, recipe)
            fitted = Fitting(train, self.tables, tables, self.engine).vocabularies()
            encodings = grown_encodings(old.schema, old.encoder.encodings, fitted, recipe)
            features = tuple(replace(f, size=encodings[f.name].size) for f in old.schema.features)
            schema = replace(old.schema, features=features)
            save_encodings(self.folder / "encodings", encodings, schema)
        with self.progress("encoding users and items", None):
            entities = {
                home: write_entities(
                    rows,
                    home,
                    tables.get(home),
                    self.tables,
                    schema,
                    encodings,
                    self.folder,
                    old.folder,
                )
                for home in ("users", "items")
                if getattr(old, home) is not None
            }
        encoder = RowEncoder(
            encodings,
            users=entities["users"].keys if "users" in entities else None,
            items=entities["items"].keys if "items" in entities else None,
        )
        ids = self._own_ids(schema, encoder)
        stores, shifts = self._events(rows, schema, encoder, entities, ids)
        sampler = negatives = None
        if recipe.samples_negatives:
            with self.progress("counting items to sample from", None):
                sampler = NegativeSampler.load(old.folder / "negatives")
                negatives = grown_negatives(
                    old.folder, sampler, rows, recipe, schema, encoder, entities["items"]
                )
                negatives.sampler.save(self.folder / "negatives")
        total = sum(usable.sizes.values())
        with contextlib.closing(
            ExampleWriter(
                self.folder,
                schema,
                encoder,
                entities,
                lists=ListWriter(self.folder, recipe, encoder),
                negatives=negatives,
                stores=stores,
            )
        ) as writer:
            repeats = Repeats()
            pieces = self._earlier(schema, ids, shifts, sampler)
            first_new = self._examples(writer, pieces, rows, repeats, total)
        before = old.manifest["report"]
        sizes = dict(usable.sizes)
        sizes["train"] += sum(before["rows"].values())
        dropped = {
            reason: before["rows_dropped"].get(reason, 0) + usable.dropped.get(reason, 0)
            for reason in {**before["rows_dropped"], **usable.dropped}
        }
        report = {
            **before,
            "rows_in": before["rows_in"] + total + sum(usable.dropped.values()),
            "rows_dropped": dropped,
            "rows": sizes,
            "rows_repeated": before["rows_repeated"] + repeats.count,
            "requests": writer.requests,
            "events": {name: len(store.time) for name, store in stores.items()},
            "users": len(entities["users"].keys) - 1 if "users" in entities else 0,
            "items": len(entities["items"].keys) - 1 if "items" in entities else 0,
            "vocabulary": {f.name: f.size - 1 for f in schema.features if f.space},
            "unknown_rate": writer.unknown_rates(),
            "label_rate": writer.label_rates(),
            "warnings": [
                *doubts_of_times(rows),
                *doubts_of_tables(rows, tables, self.tables),
                *doubts_of_labels(writer.label_rates()),
            ],
        }
        if negatives is not None:
            report["negatives"] = negatives.drawn
            report["negatives_lacking"] = negatives.lacking
        return self._manifest(schema, report, usable, first_new)

    def _manifest(
        self, schema: Schema, report: dict[str, Any], usable: Usable, first_new: int
    ) -> dict[str, Any]:
        old = self.old.manifest
        settings = self.recipe.model_dump(mode="json", exclude_unset=True)
        paths = [(path, self.recipe.log.format) for path in self.logs]
        paths += [(each.path, each.format) for each in self.recipe.entities.values()]
        files = stamps(file for path, kind in paths for file in find_files(path, path, kind))
        part = {
            "log": list(self.logs),
            "tables": {home: each.path for home, each in self.recipe.entities.items()},
            "split": settings["split"],
            "rows": usable.sizes,
            "first_new_train_request": first_new,
            "vocabulary_before": {
                f.space: f.size for f in self.old.schema.features if f.space is not None
            },
        }
        appended = [*old.get("appended", []), part]
        identity = {**old["identity"], "files": {**old["identity"]["files"], **files}}
        identity["appended"] = [{"log": p["log"], "split": p["split"]} for p in appended]
        return {
            "format": FORMAT,
            "identity": identity,
            "recipe": old["recipe"],
            "schema": schema.to_json(),
            "report": report,
            "appended": appended,
        }

    def _events(
        self,
        rows: ibis.Table,
        schema: Schema,
        encoder: RowEncoder,
        entities: dict[str, Any],
        ids: dict[str, np.ndarray],
    ) -> tuple[dict[str, EventStore], dict[str, np.ndarray]]:
        """The old and the new events of each history, and how far the old ones have moved."""
        stores: dict[str, EventStore] = {}
        shifts: dict[str, np.ndarray] = {}
        if not schema.histories:
            return stores, shifts
        keys = encoder.users
        assert keys is not None
        places = ibis.memtable(
            pa.table({"user_key": keys.values, "user_row": np.arange(1, len(keys))})
        )
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            new = Path(scratch)
            with (
                self.progress("merging histories", None),
                contextlib.closing(
                    ExampleWriter(
                        new,
                        schema,
                        encoder,
                        entities,
                        lists=ListWriter(new, self.recipe, encoder),
                    )
                ) as writer,
            ):
                for history in schema.histories:
                    entering = rows.filter(rows[f"enters.{history.name}"])
                    placed = entering.join(places, entering.user == places.user_key)
                    count = 0
                    for piece in in_order(self.engine, placed, ["user_row", "time", "item"]):
                        writer.add_events(history, piece)
                        count += piece.num_rows
                    if count:
                        writer.end_events(history)
                    here = Path("events") / history.name
                    shifts[history.name] = merge_events(
                        self.old.folder / here,
                        new / here if count else None,
                        len(keys),
                        self.folder / here,
                        ids,
                    )
                    stores[history.name] = EventStore.load(self.folder / here)
        return stores, shifts

    def _earlier(
        self,
        schema: Schema,
        ids: dict[str, np.ndarray],
        shifts: dict[str, np.ndarray],
        sampler: NegativeSampler | None,
    ) -> Iterator[EncodedExamples]:
        """The old examples of all splits, without sampled negatives."""
        for split in SPLITS:
            yield from earlier_examples(self.old.folder / split, schema, shifts, ids, sampler)

    def _examples(
        self,
        writer: ExampleWriter,
        earlier: Iterable[EncodedExamples],
        rows: ibis.Table,
        repeats: Repeats,
        total: int,
    ) -> int:
        """Write all examples, the old ones first; the first request of the new ones in train."""
        with self.progress("copying earlier requests", None):
            for piece in earlier:
                writer.add_encoded("train", *piece)
        first_new = writer.requests["train"]
        schema = self.old.schema
        context = [f"feature.{f.name}" for f in schema.request_features if f.home == "log"]
        with self.progress("building requests", total) as advance:
            for index, split in enumerate(SPLITS):
                part = rows.filter(rows.split == index).drop("split")
                for piece in in_order(self.engine, part, ["user", "time", *context, "item"]):
                    writer.add_examples(split, piece)
                    if "item" in rows.columns:
                        repeats.add(piece)
                    advance(piece.num_rows)
                writer.end_examples()
        return first_new

    def _own_ids(self, schema: Schema, encoder: RowEncoder) -> dict[str, np.ndarray]:
        """Features of the log that are the user's or item's own id -> one id for each of them."""
        users, items = (self.recipe.log.user, encoder.users), (self.recipe.log.item, encoder.items)
        own = {"user": users, "item": items, "history": items}
        ids = {}
        for feature in schema.features:
            column, keys = own.get(feature.side, (None, None))
            if feature.home == "log" and feature.type == "id" and feature.column == column:
                assert keys is not None
                ids[feature.name] = encoder.encode_keys(feature.name, keys)
        return ids
