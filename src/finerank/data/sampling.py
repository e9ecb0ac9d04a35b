"""Drawing items that a user never met, in proportion to weights, exactly.

Shapes: ``P`` positives, ``I`` items with the unknown one, ``M`` pairs of a user and an item met.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from finerank.data.storage import read_batch, write_columns
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from pathlib import Path

    from finerank.data.row_encoder import RowEncoder
    from finerank.data.schema import Schema
    from finerank.recipe import Recipe

_ROUNDS = 64  # of drawing all that is missing, before what is left is listed


@dataclass(frozen=True)
class Met:
    """Which user ever met which item.

    Attributes:
        pairs: user row times ``I`` plus item row ``(M,)``, ascending.
        first: when they first met ``(M,)``; None where it doesn't matter.
    """

    pairs: np.ndarray
    first: np.ndarray | None = None

    def had(self, pairs: np.ndarray, times: np.ndarray | None) -> np.ndarray:
        """Which pairs met, at the given times or before where it matters."""
        if not len(self.pairs):
            return np.zeros(len(pairs), dtype=bool)
        places = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        met = self.pairs[places] == pairs
        if self.first is not None:
            assert times is not None
            met &= self.first[places] <= times
        return np.asarray(met)


class Behind(NamedTuple):
    """Rows with negatives behind their positives: ``L`` in all.

    Attributes:
        source: the row that each is or is drawn for ``(L,)``.
        is_negative: which are negatives ``(L,)``.
        places: where each row has come to stand.
    """

    source: np.ndarray
    is_negative: np.ndarray
    places: np.ndarray


class NegativeSampler:
    r"""Draws items in proportion to their weights, none twice, none that the user met.

    One after the other from what is left for the positive:

    .. math:: p(i) = \frac{w_i}{\sum_{j \text{ left}} w_j}

    What is drawn and may not be is drawn again. The few positives that still lack negatives after
    many rounds, of users who met nearly all of the pool, get theirs from a list of what is left.

    Args:
        weights: of each item row ``(I,)``, at least 0; an item of weight 0 is never drawn.
        met: what is never drawn for a user.
        groups: a label of each item row ``(I,)``, at least 0: negatives are drawn among the items
            with the positive's label. One group where left out.
    """

    def __init__(self, weights: np.ndarray, met: Met, groups: np.ndarray | None = None) -> None:
        self.items, self.met = len(weights), met
        self.groups = np.zeros(self.items, dtype=np.int64) if groups is None else groups
        pool = np.flatnonzero(weights > 0)
        self.pool = pool[np.argsort(self.groups[pool], kind="stable")]  # group after group
        self.weights = weights[self.pool].astype(np.float64)
        self.ends = np.concatenate([[0.0], np.cumsum(self.weights)])
        labels = np.arange(self.groups.max(initial=0) + 2)
        self.first_of_group = np.searchsorted(self.groups[self.pool], labels)

    def draw(
        self,
        users: np.ndarray,
        items: np.ndarray,
        times: np.ndarray | None,
        count: int,
        random: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw negatives for positives.

        Args:
            users: user row of each positive ``(P,)``.
            items: its item row ``(P,)``.
            times: its time ``(P,)``, where it matters when a user met an item.
            count: negatives for each.
            random: where the randomness comes from.

        Returns:
            The positive of each negative, ascending, and its item row. A positive has fewer than
            ``count`` where no more are left.
        """
        first = self.first_of_group[self.groups[items]]
        end = self.first_of_group[self.groups[items] + 1]
        missing = np.where(end > first, count, 0)
        # a negative is its positive times I plus its item
        done: list[np.ndarray] = []
        begun = np.zeros(0, dtype=np.int64)  # of positives that still lack some
        for _ in range(_ROUNDS):
            positives = np.repeat(np.arange(len(users)), missing)
            if not len(positives):
                break
            low, high = self.ends[first[positives]], self.ends[end[positives]]
            points = low + (high - low) * random.random(len(positives))
            places = np.searchsorted(self.ends, points, side="right") - 1
            found = self.pool[np.clip(places, first[positives], end[positives] - 1)]
            free = ~self._met(users[positives], found, None if times is None else times[positives])
            new = each_once(positives[free] * self.items + found[free])
            new = np.setdiff1d(new, begun, assume_unique=True)
            missing -= np.bincount(new // self.items, minlength=len(users))
            begun = np.concatenate([begun, new])
            lacking = missing[begun // self.items] > 0
            done.append(begun[~lacking])
            begun = begun[lacking]
        for positive in np.flatnonzero(missing):
            left, chances = self._left(
                users[positive],
                slice(first[positive], end[positive]),
                None if times is None else times[positive],
            )
            chances[np.isin(positive * self.items + left, begun)] = 0.0
            size = min(missing[positive], np.count_nonzero(chances))
            if size:
                picked = random.choice(left, size, replace=False, p=chances / chances.sum())
                done.append(positive * self.items + picked)
        drawn = np.sort(np.concatenate([*done, begun]))
        return drawn // self.items, drawn % self.items

    def save(self, folder: Path) -> None:
        """Write to Arrow files in a folder."""
        weights = np.zeros(self.items)
        weights[self.pool] = self.weights
        items = {"weight": pa.array(weights), "group": pa.array(self.groups)}
        write_columns(folder / "items.arrow", pa.record_batch(items))
        met = {"pair": pa.array(self.met.pairs)}
        if self.met.first is not None:
            met["first"] = pa.array(self.met.first, from_pandas=False)
        write_columns(folder / "met.arrow", pa.record_batch(met))

    @classmethod
    def load(cls, folder: Path) -> NegativeSampler:
        """Read what `save` wrote; which pairs met is memory-mapped."""
        items, met = read_batch(folder / "items.arrow"), read_batch(folder / "met.arrow")
        first = met.column("first").to_numpy() if "first" in met.schema.names else None
        return cls(
            items.column("weight").to_numpy(),
            Met(met.column("pair").to_numpy(), first),
            items.column("group").to_numpy(),
        )

    def _met(self, users: np.ndarray, items: np.ndarray, times: np.ndarray | None) -> np.ndarray:
        return self.met.had(users.astype(np.int64) * self.items + items, times)

    def _left(self, user: int, group: slice, time: float | None) -> tuple[np.ndarray, np.ndarray]:
        """A group's items, and the weights of those that a user hasn't met, 0 for the others."""
        items = self.pool[group]
        when = None if time is None else np.full(len(items), time)
        met = self._met(np.full(len(items), user), items, when)
        return items, self.weights[group] * ~met


def each_once(values: np.ndarray) -> np.ndarray:
    """The different values, ascending; ten times as fast as `numpy.unique`, which hashes them."""
    values = np.sort(values)
    first = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return np.asarray(values[first])


def behind(positives: np.ndarray, of_positive: np.ndarray, rows: int) -> Behind:
    """Where rows and negatives come to stand when the negatives follow their positives.

    Args:
        positives: which of the rows are positives ``(P,)``, ascending.
        of_positive: the positive of each negative, ascending.
        rows: how many there are.
    """
    sizes = np.ones(rows, dtype=np.int64)
    sizes[positives] += np.bincount(of_positive, minlength=len(positives))
    places = np.cumsum(sizes) - sizes
    is_negative = np.ones(int(sizes.sum()), dtype=bool)
    is_negative[places] = False
    return Behind(np.repeat(np.arange(rows), sizes), is_negative, places)


def item_ids(recipe: Recipe, schema: Schema, encoder: RowEncoder) -> dict[str, np.ndarray]:
    """The features that are the item's id itself, where the log holds it: one row an item."""
    ids = {}
    for feature in schema.candidate_features:
        if feature.home != "log":
            continue
        if feature.type != "id" or feature.column != recipe.log.item:
            raise FinerankError(
                f"features.{feature.name}",
                expected="item features in the item table, beside sampled negatives",
                found=f"{feature.column!r} in the log, where a sampled item has no row",
                fix="Move it to a table of items, or leave it out.",
            )
        assert encoder.items is not None
        ids[feature.name] = encoder.encode_keys(feature.name, encoder.items)
    return ids
