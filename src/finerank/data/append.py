"""New rows of a log behind a prepared data set, whose own rows are not prepared again."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finerank.data.assembly import (
    doubts,
    encode_entities,
    kept_entities,
    log_features,
    report_of_rows,
    report_of_set,
    write_examples,
)
from finerank.data.dataset import Dataset
from finerank.data.encoding import save_encodings
from finerank.data.engine import open_engine
from finerank.data.example_writer import ExampleWriter
from finerank.data.fitting import Fitting
from finerank.data.grown import earlier_examples, grown_encodings, own_ids
from finerank.data.grown_events import grown_events
from finerank.data.grown_negatives import grown_negatives
from finerank.data.list_writer import ListWriter
from finerank.data.manifest import FORMAT, MANIFEST, read_manifest, stamps
from finerank.data.new_rows import checked_rows, recipe_of_new_rows
from finerank.data.paths import find_files
from finerank.data.prepare import Prepared, write_manifest
from finerank.data.row_encoder import RowEncoder
from finerank.data.sampling import NegativeSampler
from finerank.data.storage import read_batch
from finerank.data.tables import RawTables
from finerank.data.thinning import shares_kept
from finerank.data.usable import rows_to_fit_on, usable_rows
from finerank.errors import FinerankError
from finerank.folders import written_whole
from finerank.garbage import old_objects_left_alone
from finerank.progress import Progress, silent
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    with old_objects_left_alone(), written_whole(out, marker=MANIFEST) as folder:
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
            usable = usable_rows(self.tables, self.engine, log_features(self.tables))
            kept = kept_entities(self.tables, self.engine)
            rows = checked_rows(usable.rows, old, kept, ", ".join(self.logs))
            usable = replace(usable, rows=rows)
        with self.progress("extending vocabularies", None):
            train = rows_to_fit_on(rows, recipe)
            fitted = Fitting(train, self.tables, kept, self.engine).vocabularies()
            encodings = grown_encodings(old.schema, old.encoder.encodings, fitted, recipe)
            features = tuple(replace(f, size=encodings[f.name].size) for f in old.schema.features)
            schema = replace(old.schema, features=features)
            save_encodings(self.folder / "encodings", encodings, schema)
        with self.progress("encoding users and items", None):
            entities = encode_entities(
                rows, kept, self.tables, schema, encodings, self.folder, old.folder
            )
        encoder = RowEncoder.of(encodings, entities)
        ids = own_ids(recipe, schema, encoder)
        with self.progress("merging histories", None):
            stores, shifts = grown_events(
                *(old.folder, rows, recipe, schema, encoder, entities, ids),
                *(self.engine, self.folder),
            )
        sampler = negatives = None
        if recipe.samples_negatives:
            with self.progress("counting items to sample from", None):
                sampler = NegativeSampler.load(old.folder / "negatives")
                negatives = grown_negatives(
                    old.folder, sampler, rows, recipe, schema, encoder, entities["items"]
                )
                negatives.sampler.save(self.folder / "negatives")
        with contextlib.closing(
            ExampleWriter(
                self.folder,
                schema,
                encoder,
                entities,
                lists=ListWriter(self.folder, recipe, encoder, earlier=old.folder),
                negatives=negatives,
                stores=stores,
            )
        ) as writer:
            with self.progress("copying earlier requests", None):
                for split in SPLITS:
                    for piece in earlier_examples(old.folder / split, schema, shifts, ids, sampler):
                        writer.add_encoded("train", *piece)
            first_new = writer.requests["train"]
            repeats = write_examples(
                writer, usable, self.tables, schema, self.engine, self.progress
            )
        report = {
            **self._rows_of_both(report_of_rows(usable, repeats)),
            **report_of_set(writer, schema, entities, negatives),
            "warnings": doubts(writer, rows, kept, self.tables),
        }
        return self._manifest(schema, report, usable, first_new)

    def _rows_of_both(self, new: dict[str, Any]) -> dict[str, Any]:
        """What the report says of the new rows, with what it says of the old ones."""
        old = self.old.manifest["report"]
        dropped = [old["rows_dropped"], new["rows_dropped"]]
        train = sum(old["rows"].values()) + new["rows"]["train"]
        report: dict[str, Any] = {"negatives_kept": old["negatives_kept"]}
        if (counted := old.get("negatives_counted")) is not None:  # what was tested is thinned now
            reason, left_out = "negative not kept", self._thinned_now()
            dropped, train = [*dropped, {reason: left_out}], train - left_out
            parts = (counted["train"], counted["later"], new["negatives_counted"]["train"])
            together = {t: np.sum([part[t] for part in parts], axis=0).tolist() for t in parts[0]}
            counted = {**new["negatives_counted"], "train": together}
            report = {"negatives_kept": shares_kept(counted), "negatives_counted": counted}
        return {
            "rows_in": old["rows_in"] + new["rows_in"],
            "rows_dropped": {
                reason: sum(each.get(reason, 0) for each in dropped)
                for reason in dict.fromkeys(chain(*dropped))
            },
            "rows": {**new["rows"], "train": train},
            "rows_repeated": old["rows_repeated"] + new["rows_repeated"],
            **report,
        }

    def _thinned_now(self) -> int:
        """How many of the old rows of validation and test don't train, by ``negatives.keep``."""
        files = [self.old.folder / split / "thinned.arrow" for split in SPLITS]
        return sum(read_batch(file).num_rows for file in files)

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
            "files": files,
            "entities_before": {
                home: len(each.keys) - 1
                for home, each in (("users", self.old.users), ("items", self.old.items))
                if each is not None
            },
            "first_new_train_request": first_new,
            "vocabulary_before": {
                f.space: f.size for f in self.old.schema.features if f.space is not None
            },
        }
        appended = [*old.get("appended", []), part]
        parts = [{name: part[name] for name in ("log", "split", "files")} for part in appended]
        identity = {**old["identity"], "appended": parts}
        return {
            "format": FORMAT,
            "identity": identity,
            "recipe": old["recipe"],
            "schema": schema.to_json(),
            "report": report,
            "appended": appended,
        }
