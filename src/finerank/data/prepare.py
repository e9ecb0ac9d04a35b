"""From raw logs and tables to the prepared data set: order, encode, split, build requests."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
import pyarrow as pa

from finerank.data.encoding import save_encodings
from finerank.data.entities import Entities
from finerank.data.example_writer import ExampleWriter
from finerank.data.fitting import Fitting
from finerank.data.rows import RowEncoder, as_id, select_rows
from finerank.data.schema import Feature, History, Schema
from finerank.data.splits import TRAIN, check_sizes, with_split
from finerank.data.storage import ColumnWriter, write_columns
from finerank.data.tables import RawTables, find_files
from finerank.data.vocabulary import Vocabulary
from finerank.errors import FinerankError
from finerank.folders import written_whole
from finerank.progress import Progress, silent
from finerank.recipe import SPLITS, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finerank.data.encoding import Encoding
    from finerank.data.schema import Home

FORMAT = 1
MANIFEST = "manifest.json"
_ROWS_A_PIECE = 500_000


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


def prepare(recipe: Recipe, out: str | Path, *, progress: Progress = silent) -> Prepared:
    """Turn the raw tables of a recipe into a prepared data set.

    Nothing is done where the folder holds the data set of this recipe and these inputs already.

    Args:
        recipe: its ``model`` and ``training`` parts have no influence here.
        out: the folder; replaced as a whole, at the end.
        progress: told of each step.

    Raises:
        FinerankError: the recipe and the tables don't fit, or a value is not what it must be.
    """
    out = Path(out)
    identity = _identity(recipe)
    manifest = read_manifest(out) if (out / MANIFEST).exists() else {}
    if manifest.get("identity") == identity:
        return Prepared(out, manifest, unchanged=True)
    started = time.perf_counter()
    with written_whole(out, marker=MANIFEST) as folder:
        database = folder / "engine.duckdb"
        engine = ibis.duckdb.connect(database, temp_directory=str(folder / "spill"))
        try:
            manifest = _Preparation(recipe, engine, folder, progress).run()
        finally:
            engine.disconnect()
            database.unlink(missing_ok=True)
        manifest = {
            "format": FORMAT,
            "identity": identity,
            "recipe": recipe.model_dump(exclude_none=True),
            **manifest,
            "seconds": round(time.perf_counter() - started, 3),
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, default=str))
    return Prepared(out, manifest, unchanged=False)


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


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What a prepared data set depends on: the recipe's data part and the input files."""
    settings = recipe.model_dump(mode="json", exclude={"name", "model", "training"})
    for task in settings["tasks"].values():
        task.pop("weight")  # a matter of training
    paths = [recipe.log.path] + [t.path for t in (recipe.users, recipe.items) if t is not None]
    if recipe.split.by == "files":
        paths += [recipe.split.train, recipe.split.valid, recipe.split.test]
    files = {
        str(file): {"bytes": file.stat().st_size, "modified_ns": file.stat().st_mtime_ns}
        for path in paths
        if path is not None
        for file in find_files(path, path)
    }
    digest = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return {"recipe_sha256": digest, "files": files}


class _Preparation:
    """One run of `prepare`."""

    def __init__(self, recipe: Recipe, engine: Any, folder: Path, progress: Progress) -> None:  # noqa: ANN401
        self.recipe, self.engine, self.folder, self.progress = recipe, engine, folder, progress
        self.tables = RawTables(recipe, engine)
        self.log_features = [n for n in recipe.features if self.tables.home_of(n) == "log"]

    def run(self) -> dict[str, Any]:
        with self.progress("reading the log", None):
            rows, dropped = self._rows()
            sizes = check_sizes(rows)
            self._check_labels(rows)
        with self.progress("fitting vocabularies", None):
            fitting = Fitting(rows.filter(rows.split == TRAIN), self.tables)
            encodings = fitting.encodings()
            schema = self._schema(encodings)
            self._save_encodings(encodings, schema)
        with self.progress("encoding users and items", None):
            entities = {
                home: self._entities(rows, home, schema, encodings)
                for home in ("users", "items")
                if getattr(self.recipe.log, home[:-1]) is not None
            }
        encoder = RowEncoder(
            encodings,
            users=entities["users"].keys if "users" in entities else None,
            items=entities["items"].keys if "items" in entities else None,
        )
        writer = ExampleWriter(self.folder, schema, encoder, entities)
        total = sum(sizes.values())
        with self.progress("ordering histories", total * len(schema.histories)) as advance:
            for history in schema.histories:
                entering = rows.filter(rows[f"enters.{history.name}"])
                for piece in self._ordered(entering, ["user", "time", "item"]):
                    writer.add_events(history, piece)
                    advance(piece.num_rows)
                writer.end_events(history)
        context = [f"feature.{f.name}" for f in schema.request_features if f.home == "log"]
        with self.progress("building requests", total) as advance:
            for index, split in enumerate(SPLITS):
                part = rows.filter(rows.split == index).drop("split")
                for piece in self._ordered(part, ["user", "time", *context, "item"]):
                    writer.add_examples(split, piece)
                    advance(piece.num_rows)
                writer.end_examples()
        report = {
            "rows_in": total + sum(dropped.values()),
            "rows_dropped": dropped,
            "rows": sizes,
            "requests": writer.requests,
            "events": writer.events,
            "users": len(entities["users"].keys) - 1 if "users" in entities else 0,
            "items": len(entities["items"].keys) - 1 if "items" in entities else 0,
            "vocabulary": {f.name: f.size - 1 for f in schema.features if f.space},
            "unknown_rate": writer.unknown_rates(),
            "label_rate": writer.label_rates(),
        }
        return {"schema": schema.to_json(), "report": report}

    def _rows(self) -> tuple[ibis.Table, dict[str, int]]:
        """Every usable row with its labels and its split, and how many were dropped and why."""
        rows = select_rows(self.tables.log, self.recipe, self.log_features, labels=True)
        needed = [name for name in ("user", "item", "time") if name in rows.columns]
        reasons = {f"no {name}": rows[name].isnull() for name in needed}
        labels = [rows[f"label.{task}"] for task in self.recipe.tasks]
        unlabelled = labels[0].isnull()
        for label in labels[1:]:
            unlabelled &= label.isnull()
        reasons["no label"] = unlabelled
        seen: ibis.Value = ibis.literal(value=False)
        counts = {"rows": rows.count()}
        for reason, condition in reasons.items():
            counts[reason] = (condition & ~seen).sum().fill_null(0)
            seen |= condition
        found = rows.agg(**counts).to_pyarrow().to_pylist()[0]
        if found["rows"] == 0:
            raise FinerankError("log", expected="rows", found="an empty table")
        dropped = {reason: int(found[reason]) for reason in reasons if found[reason]}
        kept = with_split(rows.filter(~seen), self.recipe)
        return self.engine.create_table("examples", kept), dropped

    def _check_labels(self, rows: ibis.Table) -> None:
        for name in self.recipe.tasks:
            label = rows[f"label.{name}"]
            wrong = rows.filter(label.notnull() & ~label.isin([0.0, 1.0]))
            example = wrong.select(value=wrong[f"label.{name}"]).limit(1).to_pyarrow()
            if example.num_rows:
                raise FinerankError(
                    f"tasks.{name}",
                    expected="0 or 1, false or true, or null where unknown",
                    found=f"{example[0][0].as_py():g}, in {wrong.count().to_pyarrow()} rows",
                    fix="Write a condition, such as rating >= 4.",
                )

    def _schema(self, encodings: dict[str, Encoding]) -> Schema:
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
        histories = tuple(
            History(name, tuple(settings.features), settings.max_length)
            for name, settings in recipe.histories.items()
        )
        return Schema(features, histories, tuple(recipe.tasks))

    def _save_encodings(self, encodings: dict[str, Encoding], schema: Schema) -> None:
        save_encodings(self.folder / "encodings", encodings, schema)

    def _entities(
        self, rows: ibis.Table, home: Home, schema: Schema, encodings: dict[str, Encoding]
    ) -> Entities:
        """All users or items of the log and of their table, encoded."""
        side = home[:-1]
        keys = rows.select(key=rows[side]).distinct()
        columns: dict[str, ibis.Value] = {}
        features = [f for f in schema.features if f.home == home]
        title = None
        if home in self.tables.entities:
            settings = self.recipe.users if home == "users" else self.recipe.items
            assert settings is not None
            table = self.tables.entities[home]
            key = as_id(table[settings.key], f"{home}.key")
            for feature in features:
                column = table[self.tables.raw_column(feature.name)]
                is_id = feature.type in ("id", "ids")
                where = f"features.{feature.name}"
                columns[f"feature.{feature.name}"] = as_id(column, where) if is_id else column
            if settings.title is not None:
                title = "title"
                columns["title"] = table[settings.title].cast("string")
            table = table.select(key=key, **columns).filter(ibis._.key.notnull())
            self._check_keys(table, keys, home)
            keys = keys.union(table.select("key"), distinct=True)
            joined = keys.left_join(table, "key").select(keys.key, *columns)
        else:
            joined = keys
        ordered = joined.order_by("key").to_pyarrow()
        vocabulary = Vocabulary(ordered["key"].combine_chunks())
        with_id = [f for f in features if self._is_key(f, home)]
        for feature in with_id:  # an id that the table doesn't list is still itself
            name = f"feature.{feature.name}"
            ordered = ordered.set_column(ordered.schema.get_field_index(name), name, ordered["key"])
        index = {"key": vocabulary.values}
        if title is not None:
            index["title"] = ordered["title"].combine_chunks()
        write_columns(self.folder / home / "keys.arrow", pa.record_batch(index))
        if features:
            self._write_entity_features(ordered, home, features, encodings)
        return Entities.load(self.folder / home)

    def _is_key(self, feature: Feature, home: Home) -> bool:
        settings = self.recipe.users if home == "users" else self.recipe.items
        return settings is not None and self.tables.raw_column(feature.name) == settings.key

    def _write_entity_features(
        self, rows: pa.Table, home: Home, features: list[Feature], encodings: dict[str, Encoding]
    ) -> None:
        encoder = RowEncoder(encodings, users=None, items=None)
        schema = pa.schema([(f.name, encodings[f.name].type) for f in features])
        unknown = pa.table(
            {name: pa.nulls(1, rows.schema.field(name).type) for name in rows.schema.names}
        )
        with ColumnWriter(self.folder / home / "features.arrow", schema) as writer:
            for piece in (unknown, rows):
                writer.append({f.name: encoder.encode_feature(f.name, piece) for f in features})

    def _check_keys(self, table: ibis.Table, log_keys: ibis.Table, home: Home) -> None:
        if table.key.type().copy(nullable=True) != log_keys.key.type().copy(nullable=True):
            raise FinerankError(
                f"{home}.key",
                expected=f"the type of log.{home[:-1]}, {log_keys.key.type()}",
                found=str(table.key.type()),
                fix="Cast one of them under derive.",
            )
        twice = table.group_by("key").agg(n=ibis._.count()).filter(ibis._.n > 1)
        example = twice.limit(1).to_pyarrow().to_pylist()
        if example:
            found = f"{example[0]['key']!r} in {example[0]['n']} rows"
            raise FinerankError(
                f"{home}.key", expected=f"one row for each of the {home}", found=found
            )

    def _ordered(self, rows: ibis.Table, keys: list[str]) -> Iterator[pa.RecordBatch]:
        """Rows in order of the given columns, piece by piece; ties in order of all the others."""
        if "user" in rows.columns and "time" in rows.columns:
            first = [key for key in keys if key in rows.columns]
            rest = [name for name in rows.columns if name not in first]
            rows = rows.order_by([*first, *rest])
        yield from rows.to_pyarrow_batches(chunk_size=_ROWS_A_PIECE)
