"""From raw logs and tables to the prepared data set: order, encode, split, build requests."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import ibis
import pyarrow as pa

from finerank.data.durations import as_duration
from finerank.data.encoding import save_encodings
from finerank.data.entities import Entities
from finerank.data.example_writer import ExampleWriter
from finerank.data.fitting import Fitting
from finerank.data.manifest import (
    FORMAT,
    MANIFEST,
    find_manifest,
    identity_of,
    read_manifest,
)
from finerank.data.negatives import fit_negatives, thinned
from finerank.data.outcomes import check_events, with_outcomes
from finerank.data.rows import RowEncoder, as_id, select_rows
from finerank.data.schema import Feature, History, Schema
from finerank.data.splits import NO_EXAMPLE, TRAIN, check_sizes, with_split
from finerank.data.storage import ColumnWriter, write_columns
from finerank.data.tables import RawTables
from finerank.data.vocabulary import Vocabulary
from finerank.errors import FinerankError
from finerank.folders import written_whole
from finerank.progress import Progress, silent
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finerank.data.encoding import Encoding
    from finerank.data.schema import Home
    from finerank.recipe import Recipe
    from finerank.settings import EntityTableSettings

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


def prepare(
    recipe: Recipe,
    out: str | Path,
    *,
    memory: str | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Turn the raw tables of a recipe into a prepared data set.

    Nothing is done where the folder holds the data set of this recipe and these inputs already.

    Args:
        recipe: its ``model`` and ``training`` parts have no influence here.
        out: the folder; replaced as a whole, at the end.
        memory: what the engine may use before it spills to disk beside ``out``, such as 2GB; four
            fifths of the machine's where left out. Some hundred MB for the pieces in hand and the
            vocabularies come on top.
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
            _write_manifest(out, manifest)
        return Prepared(out, manifest, unchanged=True)
    started = time.perf_counter()
    with written_whole(out, marker=MANIFEST) as folder:
        with _engine(folder / "engine", memory) as engine:
            manifest = _Preparation(recipe, engine, folder, progress).run()
        manifest = {
            "format": FORMAT,
            "identity": identity,
            "recipe": recipe.model_dump(exclude_none=True),
            **manifest,
            "seconds": round(time.perf_counter() - started, 3),
        }
        _write_manifest(folder, manifest)
    return Prepared(out, read_manifest(out), unchanged=False)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    unfinished = folder / f".{MANIFEST}"
    unfinished.write_text(json.dumps(manifest, indent=2, default=str))
    unfinished.rename(folder / MANIFEST)


@contextlib.contextmanager
def _engine(folder: Path, memory: str | None) -> Iterator[Any]:
    """DuckDB with its files in a folder of its own, which is gone in the end."""
    if memory is not None and not re.fullmatch(r"\d+(\.\d+)?[MG]B", memory):
        raise FinerankError("memory", expected="an amount such as 512MB or 2GB", found=repr(memory))
    folder.mkdir()
    # the order of a table's rows is never relied on, and keeping it costs memory
    options: dict[str, Any] = {"preserve_insertion_order": False}
    options |= {} if memory is None else {"memory_limit": memory}
    spill = str(folder / "spill")
    engine = ibis.duckdb.connect(folder / "tables.duckdb", temp_directory=spill, **options)
    try:
        yield engine
    except duckdb.OutOfMemoryException as error:
        raise FinerankError(
            "memory",
            expected="enough to sort and group the log",
            found=" ".join(str(error).partition("\n\n")[0].split()),
            fix="Allow more; the engine has more use of it than other steps.",
        ) from error
    except duckdb.Error as error:
        raise FinerankError(
            "the recipe's tables",
            expected="values that can be read, and that its SQL can take",
            found=" ".join(str(error).partition("\n\n")[0].split()),
            fix="If a column of a CSV is taken for another type, write it as Parquet.",
        ) from error
    finally:
        engine.disconnect()
        shutil.rmtree(folder)


class _Preparation:
    """One run of `prepare`."""

    def __init__(self, recipe: Recipe, engine: Any, folder: Path, progress: Progress) -> None:  # noqa: ANN401
        self.recipe, self.engine, self.folder, self.progress = recipe, engine, folder, progress
        self.tables = RawTables(recipe, engine)
        self.kept = dict.fromkeys(recipe.tasks, 1.0)  # of each task's labels of 0 in training
        self.log_features = [n for n in recipe.features if self.tables.home_of(n) == "log"]

    def run(self) -> dict[str, Any]:
        with self.progress("reading the log", None):
            rows, dropped = self._rows()
            examples = rows.filter(rows.split != NO_EXAMPLE)
            sizes = check_sizes(examples)
            self._check_labels(examples)
            for home in self.tables.entities:
                self._check_keys(rows, home)
        with self.progress("fitting vocabularies", None):
            fitting = Fitting(rows.filter(rows.split == TRAIN), self.tables)
            encodings = fitting.encodings()
            schema = self._schema(rows, encodings)
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
        total = sum(sizes.values())
        negatives = None
        if self.recipe.negatives is not None and self.recipe.negatives.sampled:
            with self.progress("counting items to sample from", None):
                negatives = fit_negatives(rows, self.recipe, schema, encoder, entities)
        with contextlib.closing(
            ExampleWriter(self.folder, schema, encoder, entities, negatives)
        ) as writer:
            self._write(writer, schema, rows, total)
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
        report["negatives_kept"] = self.kept
        if negatives is not None:
            report["negatives"] = negatives.drawn
            report["negatives_lacking"] = negatives.lacking
        return {"schema": schema.to_json(), "report": report}

    def _write(self, writer: ExampleWriter, schema: Schema, rows: ibis.Table, total: int) -> None:
        with self.progress("ordering histories", None) as advance:
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

    def _rows(self) -> tuple[ibis.Table, dict[str, int]]:
        """Every usable row with its labels and its split, and how many were dropped and why.

        A row that is no example, for one reason or another, may still enter histories and make
        the labels of others.
        """
        if not self.tables.log.limit(1).to_pyarrow().num_rows:
            raise FinerankError("log", expected="rows", found="an empty table")
        rows = select_rows(self.tables.log, self.recipe, self.log_features, labels=True)
        needed = [name for name in ("user", "item", "time") if name in rows.columns]
        reasons = {f"no {name}": rows[name].isnull() for name in needed}
        if "example" in rows.columns:
            reasons["not an example"] = ~rows.example
        by_events = any(task.event is not None for task in self.recipe.tasks.values())
        if not by_events:
            reasons["no label"] = self._unlabelled(rows)
        seen: ibis.Value = ibis.literal(value=False)
        counts = {"rows": rows.count()}
        for reason, condition in reasons.items():
            counts[reason] = (condition & ~seen).sum().fill_null(0)
            seen |= condition
        found = rows.agg(**counts).to_pyarrow().to_pylist()[0]
        self._check_time(rows)
        dropped = {reason: int(found[reason]) for reason in reasons if found[reason]}
        if sum(dropped.values()) == found["rows"]:
            expected = f"rows with {', '.join([*needed, 'label'])}"
            if "example" in rows.columns:
                expected += f", and {self.recipe.log.examples}"
            raise FinerankError("log", expected=expected, found=f"none: {dropped}")
        kept = with_split(rows.filter(~seen), self.recipe)
        others = rows.drop_null(needed, how="any").filter(seen) if needed else None
        if others is not None and (self.recipe.histories or by_events or self.recipe.negatives):
            others = others.mutate(split=ibis.literal(NO_EXAMPLE, "int8"))
            kept = kept.union(others.select(kept.columns))
        rows = self.engine.create_table("rows", kept)
        if by_events:
            rows, unknown = self._with_outcomes(rows)
            dropped |= {"outcome not known yet": unknown} if unknown else {}
        if self.recipe.negatives is not None and self.recipe.negatives.keep is not None:
            rows, left_out, self.kept = thinned(rows, self.recipe)
            dropped |= {"negative not kept": left_out} if left_out else {}
        return rows, dropped

    def _unlabelled(self, rows: ibis.Table) -> ibis.Value:
        return ibis.and_(*(rows[f"label.{task}"].isnull() for task in self.recipe.tasks))

    def _with_outcomes(self, rows: ibis.Table) -> tuple[ibis.Table, int]:
        """The rows with the labels that events make, and how many have none and are no examples."""
        check_events(rows, self.recipe)
        labelled = self.engine.create_table("labelled", with_outcomes(rows, self.recipe))
        unknown = (labelled.split != NO_EXAMPLE) & self._unlabelled(labelled)
        split = unknown.ifelse(NO_EXAMPLE, labelled.split).cast("int8")
        count = labelled.filter(unknown).count().to_pyarrow().as_py()
        return labelled.mutate(split=split), count

    def _check_time(self, rows: ibis.Table) -> None:
        if "time" not in rows.columns:
            return
        kind = rows.time.type()
        if not (kind.is_numeric() or kind.is_date() or kind.is_timestamp()):
            raise FinerankError(
                "log.time",
                expected="numbers, dates or times",
                found=f"{self.recipe.log.time!r} of type {kind}",
                fix="Cast it under log.derive, such as when: CAST(time AS TIMESTAMP).",
            )

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
            )
            for name, settings in recipe.histories.items()
        )
        return Schema(features, histories, tuple(recipe.tasks), time)

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
            settings = self._settings(home)
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

    def _settings(self, home: Home) -> EntityTableSettings:
        settings = self.recipe.users if home == "users" else self.recipe.items
        assert settings is not None
        return settings

    def _is_key(self, feature: Feature, home: Home) -> bool:
        return self.tables.raw_column(feature.name) == self._settings(home).key

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

    def _check_keys(self, rows: ibis.Table, home: Home) -> None:
        """Check that a table of users or items has the log's type of id, and each id once."""
        table, settings = self.tables.entities[home], self._settings(home)
        key = as_id(table[settings.key], f"{home}.key")
        found, expected = key.type(), rows[home[:-1]].type()
        if found.copy(nullable=True) != expected.copy(nullable=True):
            raise FinerankError(
                f"{home}.key",
                expected=f"the type of log.{home[:-1]}, {expected}",
                found=str(found),
                fix="Cast one of them under derive.",
            )
        table = table.select(key=key).filter(ibis._.key.notnull())
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
        for batch in rows.to_pyarrow_batches(chunk_size=_ROWS_A_PIECE):
            for start in range(0, batch.num_rows, _ROWS_A_PIECE):  # the engine rounds sizes up
                yield batch.slice(start, _ROWS_A_PIECE)
