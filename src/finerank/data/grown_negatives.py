"""Negatives of a data set to which rows are appended: what all its rows, old and new, say of them.

Shapes: ``I`` items with the unknown one, ``M`` pairs of a user and an item met.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finerank.data.grown import earlier_examples
from finerank.data.negatives import Negatives, met_pairs, negatives_of, positives_of_items
from finerank.data.sampling import Met, NegativeSampler, each_once
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from pathlib import Path

    import ibis

    from finerank.data.entities import Entities
    from finerank.data.row_encoder import RowEncoder
    from finerank.data.schema import Schema
    from finerank.recipe import Recipe


def grown_negatives(
    earlier: Path,
    sampler: NegativeSampler,
    rows: ibis.Table,
    recipe: Recipe,
    schema: Schema,
    encoder: RowEncoder,
    items: Entities,
) -> Negatives:
    """The negatives that `fit_negatives` would give for the old and the new rows together.

    Args:
        earlier: the folder of the prepared data set, all of whose examples train now.
        sampler: its own.
        rows: the new ones.
        items: the old and the new ones.

    Raises:
        FinerankError: there are no positives to draw by.
    """
    counts = positives_of_items(rows, recipe, items)
    for split in SPLITS:
        for old, labels, _, _ in earlier_examples(earlier / split, schema, {}, {}, sampler):
            assert old.item is not None
            positive = np.logical_or.reduce([each == 1 for each in labels.values()])
            shown = np.bincount(old.item, minlength=len(counts)) > 0
            counts[shown] = np.maximum(counts[shown], 0)
            counts += np.bincount(old.item, weights=positive, minlength=len(counts)).astype(int)
    met = merged(sampler.met, sampler.items, met_pairs(rows, recipe, encoder), len(items.keys))
    return negatives_of(counts, met, recipe, schema, encoder, items)


def merged(old: Met, old_items: int, new: Met, items: int) -> Met:
    """Which user met which item, before or in the new rows.

    Args:
        old: by the earlier number of items, ``old_items``; users and items have kept their rows.
        new: by the number of items now.
    """
    user, item = np.divmod(old.pairs, old_items)
    both = np.concatenate([user * items + item, new.pairs])
    if old.first is None or new.first is None:
        return Met(each_once(both))
    times = np.concatenate([old.first, new.first])
    order = np.lexsort([times, both])
    pairs, places = np.unique(both[order], return_index=True)  # the earliest of each
    return Met(pairs, times[order][places])
