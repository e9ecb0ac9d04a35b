"""Negatives: items sampled beside each positive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis
import numpy as np
import pyarrow as pa

from finerank.data.batch import Jagged
from finerank.data.sampling import Met, NegativeSampler, behind, item_ids
from finerank.data.splits import TRAIN
from finerank.errors import FinerankError, did_you_mean
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finerank.data.entities import Entities
    from finerank.data.row_encoder import EncodedRows, RowEncoder
    from finerank.data.schema import Home, Schema
    from finerank.recipe import Recipe


class Negatives:
    """Sampled negatives between the encoded rows of examples.

    Args:
        sampler: draws them.
        per_positive: split -> how many for each positive.
        seed: of all draws.
        item_ids: the features that are the item's id, encoded, one row an item.

    Attributes:
        drawn: split -> how many were drawn.
        lacking: split -> how many more there should have been, where no items were left.
    """

    def __init__(
        self,
        sampler: NegativeSampler,
        per_positive: dict[str, int],
        *,
        seed: int,
        item_ids: dict[str, np.ndarray],
    ) -> None:
        self.sampler, self.per_positive, self.item_ids = sampler, per_positive, item_ids
        self.drawn = dict.fromkeys(per_positive, 0)
        self.lacking = dict.fromkeys(per_positive, 0)
        self._random = {
            split: np.random.default_rng([seed, number])
            for number, split in enumerate(per_positive)
        }

    def between(
        self, split: str, rows: EncodedRows, labels: dict[str, np.ndarray]
    ) -> tuple[EncodedRows, dict[str, np.ndarray], np.ndarray]:
        """Rows with negatives behind each positive, their labels, and each row's new place.

        A positive has a label of 1. A negative is its positive with another item; its labels are
        0 where those of its positive are known.
        """
        assert rows.user is not None
        assert rows.item is not None
        positives = np.flatnonzero(np.logical_or.reduce([each == 1 for each in labels.values()]))
        times = None if rows.time is None else rows.time[positives]
        count = self.per_positive[split]
        of_positive, items = self.sampler.draw(
            rows.user[positives], rows.item[positives], times, count, self._random[split]
        )
        self.drawn[split] += len(items)
        self.lacking[split] += count * len(positives) - len(items)
        source, is_negative, places = behind(positives, of_positive, len(rows))
        taken = rows.take(source)
        assert taken.item is not None
        taken.item[is_negative] = items
        for name, ids in self.item_ids.items():
            taken.features[name] = pa.array(ids[taken.item])
        labels = {name: each[source] for name, each in labels.items()}
        for each in labels.values():
            each[is_negative & ~np.isnan(each)] = 0.0
        return taken, labels, places


def fit_negatives(
    rows: ibis.Table,
    recipe: Recipe,
    schema: Schema,
    encoder: RowEncoder,
    entities: Mapping[Home, Entities],
) -> Negatives:
    """What negatives are drawn from, and what for each user is left out.

    The pool are the items of the training rows; their popularity is their positives there. A user
    has met the item of every row of the log that names both, example or not, whatever its label.

    Args:
        rows: every usable row.

    Raises:
        FinerankError: an item feature that a sampled item wouldn't have, or no pool.
    """
    items = entities["items"]
    counts = positives_of_items(rows, recipe, items)
    return negatives_of(counts, met_pairs(rows, recipe, encoder), recipe, schema, encoder, items)


def positives_of_items(rows: ibis.Table, recipe: Recipe, items: Entities) -> np.ndarray:
    """How many positives each item has in the training rows ``(I,)``, -1 where it has no row."""
    train = rows.filter(rows.split == TRAIN)
    pool = train.group_by("item").agg(n=is_positive(train, recipe).sum()).to_pyarrow()
    counts = np.full(len(items.keys), -1, dtype=np.int64)
    counts[items.keys.encode(pool["item"].combine_chunks())] = pool["n"].to_numpy()
    return counts


def negatives_of(
    counts: np.ndarray,
    met: Met,
    recipe: Recipe,
    schema: Schema,
    encoder: RowEncoder,
    items: Entities,
) -> Negatives:
    """The negatives that a recipe asks for.

    Args:
        counts: as `positives_of_items` gives them.
        met: what for each user is left out.

    Raises:
        FinerankError: as `fit_negatives`.
    """
    settings = recipe.negatives
    assert settings is not None
    if settings.by == "uniform":
        weights = (counts >= 0).astype(np.float64)
    else:
        weights = np.where(counts > 0, np.maximum(counts, 1.0) ** settings.power, 0.0)
    if not weights.any():
        raise FinerankError(
            "negatives", expected="positives in the training set", found="labels of 0 only"
        )
    evaluation = settings.per_positive if settings.evaluation is None else settings.evaluation
    train_now = 0 if settings.fresh else settings.per_positive
    return Negatives(
        NegativeSampler(
            weights,
            met,
            None if settings.within is None else _groups(settings.within, schema, items),
        ),
        {split: train_now if split == "train" else evaluation for split in SPLITS},
        seed=settings.seed,
        item_ids=item_ids(recipe, schema, encoder),
    )


def is_positive(rows: ibis.Table, recipe: Recipe) -> ibis.Value:
    """Which rows have a label of 1."""
    return ibis.or_(*(rows[f"label.{task}"].fill_null(0) == 1 for task in recipe.tasks))


def met_pairs(rows: ibis.Table, recipe: Recipe, encoder: RowEncoder) -> Met:
    """Which user has met which item in the rows."""
    assert recipe.negatives is not None
    assert encoder.items is not None
    items, with_time = len(encoder.items), recipe.negatives.exclude == "before"
    first = {"time": rows.time.min()} if with_time else {}
    pairs = rows.group_by("user", "item").agg(**first).order_by("user", "item")
    met, times = [np.zeros(0, dtype=np.int64)], []
    for piece in pairs.to_pyarrow_batches():
        encoded = encoder.encode(piece, [])
        assert encoded.user is not None
        assert encoded.item is not None
        met.append(encoded.user.astype(np.int64) * items + encoded.item)
        if encoded.time is not None:
            times.append(encoded.time)
    joined = np.concatenate(met)
    order = np.argsort(joined, kind="stable")  # in order already, but for what was appended
    return Met(joined[order], np.concatenate(times)[order] if with_time else None)


def _groups(feature: str, schema: Schema, items: Entities) -> np.ndarray:
    column = items.features.get(feature)
    if column is None or isinstance(column, Jagged) or schema.feature(feature).type != "id":
        there = [f.name for f in schema.features if f.home == "items" and f.type == "id"]
        raise FinerankError(
            "negatives.within",
            expected="a feature of the item table, of type id",
            found=repr(feature),
            fix=did_you_mean(feature, there),
        )
    return np.asarray(column.numpy()).astype(np.int64)
