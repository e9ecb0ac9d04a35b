"""What an earlier prepared data set gives to a later one: ids and examples.

Shapes: ``U`` rows of users, ``R`` requests, ``B`` candidates, ``V`` rows of a vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from finerank.data.encoding import IdEncoding, IdsEncoding
from finerank.data.row_encoder import EncodedRows
from finerank.data.schema import UNKNOWN
from finerank.data.storage import read_batch
from finerank.data.vocabulary import Buckets, Vocabulary
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from finerank.data.encoding import Encoding
    from finerank.data.row_encoder import RowEncoder
    from finerank.data.sampling import NegativeSampler
    from finerank.data.schema import Schema
    from finerank.data.vocabulary import Ids
    from finerank.recipe import Recipe

_ROWS_A_PIECE = 500_000


class EncodedExamples(NamedTuple):
    """A piece of earlier examples, as `ExampleWriter.add_encoded` takes it."""

    rows: EncodedRows
    labels: dict[str, np.ndarray]
    request: dict[str, pa.Array]
    starts: np.ndarray


def grown_encodings(
    schema: Schema, old: Mapping[str, Encoding], fitted: Mapping[str, Ids], recipe: Recipe
) -> dict[str, Encoding]:
    """The old encodings, whose vocabularies have new values behind the old ones.

    Buckets, means, deviations and widths stay as they are, so that ids and numbers mean the same.

    Args:
        fitted: id space -> the values that the new training rows have often enough.

    Raises:
        FinerankError: the new ids of a space are of another type.
    """
    spaces: dict[str, Ids] = {}
    grown = dict(old)
    for feature in schema.features:
        encoding = old[feature.name]
        if not isinstance(encoding, IdEncoding | IdsEncoding):
            continue
        assert feature.space is not None
        if feature.space not in spaces:
            sizes = [
                each.max_size
                for name, each in recipe.features.items()
                if each.max_size is not None and recipe.space_of(name) == feature.space
            ]
            most = min(sizes) if sizes else None
            spaces[feature.space] = _grown(
                encoding.vocabulary, fitted[feature.space], most, feature.name
            )
        grown[feature.name] = replace(encoding, vocabulary=spaces[feature.space])
    return grown


def _grown(old: Ids, new: Ids, most: int | None, feature: str) -> Ids:
    if isinstance(old, Buckets) or isinstance(new, Buckets) or not len(new.values):
        return old
    if not len(old.values):
        return new
    if old.values.type != new.values.type:
        raise FinerankError(
            f"features.{feature}",
            expected=f"ids of the type that was prepared, {old.values.type}",
            found=str(new.values.type),
            fix="Cast the column in the new files, or prepare all of the log anew.",
        )
    added = new.values.filter(pa.array(old.encode(new.values) == UNKNOWN))
    if most is not None:
        added = added.slice(0, max(0, most - len(old.values)))
    return Vocabulary(pa.concat_arrays([old.values, added]))


def own_ids(recipe: Recipe, schema: Schema, encoder: RowEncoder) -> dict[str, np.ndarray]:
    """Features of the log that are the user's or item's own id -> the id of each of their rows."""
    users, items = (recipe.log.user, encoder.users), (recipe.log.item, encoder.items)
    own = {"user": users, "item": items, "history": items}
    ids = {}
    for feature in schema.features:
        column, keys = own.get(feature.side, (None, None))
        if feature.home == "log" and feature.type == "id" and feature.column == column:
            assert keys is not None
            ids[feature.name] = encoder.encode_keys(feature.name, keys)
    return ids


def earlier_examples(
    folder: Path,
    schema: Schema,
    shifts: Mapping[str, np.ndarray],
    ids: Mapping[str, np.ndarray],
    sampler: NegativeSampler | None,
) -> Iterator[EncodedExamples]:
    """The examples of an earlier split that train now, piece by piece.

    Args:
        folder: the split's.
        shifts: history -> how far each user's events have moved ``(U,)``.
        ids: features of the log that are the user's or the item's own id -> the id of each of
            their rows, looked up anew.
        sampler: of the negatives in the split, which are left out; None where it has none.
    """
    requests, candidates = (read_batch(folder / f"{n}.arrow") for n in ("requests", "candidates"))
    starts = np.asarray(requests.column("first_candidate"))
    in_log = [f for f in schema.features if f.home == "log" and f.side != "history"]
    thinned = np.zeros(candidates.num_rows, dtype=bool)
    if (folder / "thinned.arrow").exists():
        thinned[read_batch(folder / "thinned.arrow").column("candidate").to_numpy()] = True
    first = 0
    while first < len(starts):
        end = int(np.searchsorted(starts, starts[first] + _ROWS_A_PIECE, side="right"))
        end = min(max(end - 1, first + 1), len(starts)) if end < len(starts) else len(starts)
        begin = starts[first]
        last = starts[end] if end < len(starts) else candidates.num_rows
        request = _columns(requests.slice(first, end - first))
        candidate = _columns(candidates.slice(begin, last - begin))
        owner = np.repeat(np.arange(end - first), np.diff(np.append(starts[first:end], last)))
        kept = ~thinned[begin:last]
        if sampler is not None:
            kept &= _of_log(sampler, request, candidate, owner)
        if not kept.all():
            there = np.bincount(owner[kept], minlength=end - first) > 0
            request = {name: each.filter(pa.array(there)) for name, each in request.items()}
            candidate = {name: each.filter(pa.array(kept)) for name, each in candidate.items()}
            owner = (np.cumsum(there) - 1)[owner[kept]]
        for name, shift in shifts.items():
            moved = shift[np.asarray(request["user"])]
            for bound in (f"start.{name}", f"end.{name}"):
                request[bound] = pa.array(np.asarray(request[bound]) + moved)
        for feature in in_log:
            if feature.name in ids:
                part, row = (candidate, "item") if feature.side == "item" else (request, "user")
                part[f"feature.{feature.name}"] = pa.array(ids[feature.name][np.asarray(part[row])])
        of = pa.array(owner)
        rows = EncodedRows(
            user=np.asarray(request["user"].take(of)) if "user" in request else None,
            item=np.asarray(candidate["item"]) if "item" in candidate else None,
            time=np.asarray(request["time"])[owner],
            features={
                f.name: candidate[f"feature.{f.name}"]
                if f.side == "item"
                else request[f"feature.{f.name}"].take(of)
                for f in in_log
            },
        )
        labels = {task: np.asarray(candidate[f"label.{task}"]) for task in schema.tasks}
        del request["first_candidate"]
        if len(owner):
            begins = np.searchsorted(owner, np.arange(owner[-1] + 1))
            yield EncodedExamples(rows, labels, request, begins)
        first = end


def _of_log(
    sampler: NegativeSampler,
    request: dict[str, pa.Array],
    candidate: dict[str, pa.Array],
    owner: np.ndarray,
) -> np.ndarray:
    """Which candidates are rows of the log: those that their user has met by the request."""
    users = np.asarray(request["user"])[owner].astype(np.int64)
    times = np.asarray(request["time"])[owner]
    return sampler.met.had(users * sampler.items + np.asarray(candidate["item"]), times)


def _columns(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    return {name: batch.column(name) for name in batch.schema.names}
