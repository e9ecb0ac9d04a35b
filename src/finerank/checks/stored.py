"""The prepared folder as Arrow columns, read without the code that wrote or serves it."""

from __future__ import annotations

import json
import math
import string
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from finerank.data.manifest import read_manifest
from finerank.data.schema import Schema
from finerank.data.storage import read_batch
from finerank.data.vocabulary import Ids, load_ids
from finerank.recipe import Recipe
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from finerank.data.schema import Feature, Home

_LARGEST = float(np.finfo(np.float32).max)


Row = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A candidate of the prepared data: its place in the split, rows of user and item, time."""

    split: int
    number: int
    request: int
    user: int
    item: int
    time: float


class Stored:
    """A prepared data set.

    Attributes:
        requests: of each split; a column a feature, window bound, user and time.
        candidates: of each split; a column a feature, label and item.

    Raises:
        FinerankError: the folder holds none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.recipe = Recipe.parse(self.manifest["recipe"], where=str(folder))
        self.schema = Schema.from_json(self.manifest["schema"])
        self.requests = [read_batch(self.folder / split / "requests.arrow") for split in SPLITS]
        self.candidates = [read_batch(self.folder / split / "candidates.arrow") for split in SPLITS]
        names = ("user", "item", "time")
        self.keys = [name for name in names if getattr(self.recipe.log, name) is not None]
        self.vocabularies: dict[str, dict[str, int]] = {}
        self.appended: list[dict[str, Any]] = self.manifest.get("appended", [])

    @cached_property
    def numbers(self) -> dict[str, dict[str, float]]:
        """Number feature -> ``mean`` and ``std``."""
        found: dict[str, dict[str, float]] = json.loads(
            (self.folder / "encodings" / "numbers.json").read_text()
        )
        return found

    def is_hashed(self, space: str) -> bool:
        """Whether a space has buckets rather than a vocabulary."""
        return (self.folder / "encodings" / f"{space}.buckets.json").exists()

    def has_numbers(self, space: str) -> bool:
        """Whether the ids of a space are kept as whole numbers, not as text."""
        if self.is_hashed(space):
            return False
        values = read_batch(self.folder / "encodings" / f"{space}.arrow").column("value")
        return bool(pa.types.is_integer(values.type))

    def vocabulary(self, space: str) -> dict[str, int]:
        """Raw id as text -> its number; empty at first where ids are hashed."""
        if space not in self.vocabularies and self.is_hashed(space):
            self.vocabularies[space] = _Hashed(load_ids(self.folder / "encodings", space))
        if space not in self.vocabularies:
            values = read_batch(self.folder / "encodings" / f"{space}.arrow").column("value")
            self.vocabularies[space] = {
                str(value): number for number, value in enumerate(values.to_pylist(), start=1)
            }
        return self.vocabularies[space]

    def ids_of(self, space: str, stage: int) -> tuple[int, int]:
        """The first id that a stage has added to a space, and the first that a later one has."""
        sizes = [part["vocabulary_before"][space] for part in self.appended]
        end = len(self.vocabulary(space)) + 1
        bounds = [1, *sizes, sys.maxsize if self.is_hashed(space) else end]
        return bounds[stage], bounds[stage + 1]

    def entities_at(self, home: Home, stage: int) -> int:
        """How many users or items there were at a stage."""
        sizes = [part["entities_before"][home] for part in self.appended]
        return int([*sizes, len(self.entity_keys(home))][stage])

    def drawn_from(self) -> tuple[pa.Table, pa.Table]:
        """Of negatives drawn in training: each item's weight, and which user met which item."""
        items = read_batch(self.folder / "negatives" / "items.arrow")
        met = read_batch(self.folder / "negatives" / "met.arrow")
        users, rows = np.divmod(met.column("pair").to_numpy(), items.num_rows)
        pairs = {"user": users, "item": rows}
        if "first" in met.schema.names:
            pairs["first"] = met.column("first").to_numpy()
        weights = {"item": np.arange(items.num_rows), "weight": items.column("weight").to_numpy()}
        return pa.table(weights), pa.table(pairs)

    def entity_keys(self, home: Home) -> pa.Array:
        """The raw ids of users or items as text; the entity of row ``n`` has id ``n - 1``."""
        return read_batch(self.folder / home / "keys.arrow").column("key").cast(pa.large_string())

    def entity_features(self, home: Home) -> pa.RecordBatch:
        """The encoded features of users or items, one row an entity, row 0 the unknown one."""
        return read_batch(self.folder / home / "features.arrow")

    def events(self, history: str) -> pa.RecordBatch:
        """The events that the windows of a history lie over."""
        return read_batch(self.folder / "events" / history / "events.arrow")

    def event_offsets(self, history: str) -> np.ndarray:
        """Events of user row ``u`` are those from place ``u`` up to place ``u + 1`` of this."""
        return np.asarray(
            read_batch(self.folder / "events" / history / "users.arrow").column("offset")
        )

    def times(self, split: int) -> np.ndarray:
        """Of each request ``(R,)``; zeros where the log has no time."""
        requests = self.requests[split]
        if "time" not in requests.schema.names:
            return np.zeros(requests.num_rows, dtype=np.int64)
        return np.asarray(requests.column("time"))

    def users(self, split: int) -> np.ndarray:
        """User row of each request ``(R,)``; zeros where the log has no user."""
        requests = self.requests[split]
        if "user" not in requests.schema.names:
            return np.zeros(requests.num_rows, dtype=np.int32)
        return np.asarray(requests.column("user"))

    def items(self, split: int) -> np.ndarray:
        """Item row of each candidate ``(B,)``; zeros where the log has no item."""
        candidates = self.candidates[split]
        if "item" not in candidates.schema.names:
            return np.zeros(candidates.num_rows, dtype=np.int32)
        return np.asarray(candidates.column("item"))

    def request_of(self, split: int) -> np.ndarray:
        """The request of each candidate ``(B,)``."""
        first = np.asarray(self.requests[split].column("first_candidate"))
        counts = np.diff(np.append(first, self.candidates[split].num_rows))
        return np.repeat(np.arange(len(first)), counts)

    def examples(self, split: int, first: int = 0) -> pa.Table:
        """A row a candidate, from a first one on: its number in the split, user, item and time."""
        request = self.request_of(split)[first:]
        return pa.table(
            {
                "split": pa.array(np.full(len(request), split, dtype=np.int8)),
                "number": pa.array(np.arange(first, first + len(request))),
                "user": pa.array(self.users(split)[request]),
                "item": pa.array(self.items(split)[first:]),
                "time": pa.array(self.times(split)[request], from_pandas=False),
            }
        )

    def encode(self, feature: Feature, raw: Any, stage: int = -1) -> object:  # noqa: ANN401
        """What the model reads for a raw value: an id, ids, a number or a vector.

        Args:
            stage: whose ids are known; the last where left out.
        """
        if feature.type == "number":
            if raw is None or not math.isfinite(raw):
                return math.nan
            fitted = self.numbers[feature.name]
            scaled = (raw - fitted["mean"]) / fitted["std"]
            return float(np.float32(max(-_LARGEST, min(_LARGEST, scaled))))
        if feature.type == "vector":
            return [0.0] * feature.size if raw is None else [float(np.float32(x)) for x in raw]
        assert feature.space is not None
        known, end = self.vocabulary(feature.space), sys.maxsize
        if 0 <= stage < len(self.appended):
            end = self.ids_of(feature.space, stage)[1]
        if feature.type == "id":
            return _number(known, raw, end)
        values = raw or []
        if feature.separator is not None:
            values = (raw or "").split(feature.separator)
        values = [each.strip(string.whitespace) for each in values if each is not None]
        return [_number(known, each, end) for each in values if each]

    def moment(self, time: float) -> str:
        """A time as people read it."""
        if self.schema.time == "moment":
            return str(np.datetime64(int(time), "us"))
        return f"{time}"


class _Hashed(dict[str, int]):
    """The bucket of each id, as it is asked for."""

    def __init__(self, ids: Ids) -> None:
        super().__init__()
        self.ids = ids

    def __missing__(self, value: str) -> int:
        self[value] = int(self.ids.encode(pa.array([value]))[0])
        return self[value]


def _number(known: dict[str, int], value: str | None, end: int) -> int:
    if value is None or (value not in known and not isinstance(known, _Hashed)):
        return 0
    return known[value] if known[value] < end else 0


def same(one: object, other: object) -> bool:
    """Whether two encoded values are equal, but for the rounding of numbers; NaN equals NaN."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6)
    return one == other
