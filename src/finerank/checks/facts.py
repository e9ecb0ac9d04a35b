"""What a prepared data set is like: rates, duplicates, users of several splits, drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finerank.settings import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa

    from finerank.checks.raw import RawLog
    from finerank.checks.stored import Stored
    from finerank.data.schema import Feature

MODERATE, LARGE = 0.1, 0.25  # the usual thresholds of the population stability index
_TOP, _BINS, _LEAST_SHARE = 20, 10, 1e-4


def population_stability_index(train: np.ndarray, test: np.ndarray) -> float:
    r"""How far a distribution over bins has moved.

    .. math:: \mathrm{PSI} = \sum_b (q_b - p_b) \ln \frac{q_b}{p_b}

    with the shares :math:`p` in training and :math:`q` in the test set, each at least 0.0001. By
    custom less than 0.1 is no drift worth a word, from 0.1 on it is moderate, from 0.25 on large.
    By chance alone it is about (bins - 1) times (1 / examples of train + 1 / those of test).

    Args:
        train: how many examples each bin has.
        test: likewise.

    >>> round(population_stability_index(np.array([60, 40]), np.array([40, 60])), 4)
    0.1622
    """
    p, q = (np.maximum(each / max(each.sum(), 1), _LEAST_SHARE) for each in (train, test))
    return float(((q - p) * np.log(q / p)).sum())


class Columns:
    """The features of the prepared examples, one value an example.

    Args:
        exposed: for each split, the numbers of the examples that are rows of the log.
    """

    def __init__(self, stored: Stored, exposed: list[np.ndarray]) -> None:
        self.stored, self.exposed = stored, exposed

    def _source(self, feature: Feature, split: int) -> tuple[pa.Array, np.ndarray]:
        """A column, and the row in it of each example."""
        if feature.home == "log":
            if feature.side == "item":
                candidates = self.stored.candidates[split]
                return candidates.column(f"feature.{feature.name}"), np.arange(candidates.num_rows)
            requests = self.stored.requests[split]
            return requests.column(f"feature.{feature.name}"), self.stored.request_of(split)
        column = self.stored.entity_features(feature.home).column(feature.name)
        if feature.home == "items":
            return column, self.stored.items(split)
        return column, self.stored.users(split)[self.stored.request_of(split)]

    def unknown_rate(self, feature: Feature, split: int) -> float:
        """The share of the examples whose value is unknown or missing."""
        column, rows = self._source(feature, split)
        if feature.type == "vector":
            unknown = ~column.flatten().to_numpy().reshape(len(column), -1).any(axis=1)
        elif feature.type == "ids":
            known = np.append(0, np.cumsum(column.values.to_numpy() != 0))
            offsets = column.offsets.to_numpy()
            unknown = known[offsets[1:]] == known[offsets[:-1]]
        else:
            values = column.to_numpy()
            unknown = np.isnan(values) if feature.type == "number" else values == 0
        return round(float(unknown[rows].mean()), 6)

    def drift(self, feature: Feature) -> float:
        """The population stability index of a feature from train to test, over rows of the log.

        Ids fall into the twenty most frequent of train, the other known ones, and the unknown;
        numbers into the tenths of train, and the missing.
        """
        train, test = (self._counts(feature, split) for split in (0, 2))
        if feature.type in ("id", "ids"):
            order = np.argsort(-train[1:], kind="stable") + 1
            top, rest = order[:_TOP], order[_TOP:]
            binned = [np.append(each[top], [each[rest].sum(), each[0]]) for each in (train, test)]
        else:
            tenths = np.arange(1, _BINS) / _BINS
            edges = np.unique(np.quantile(train, tenths)) if len(train) else np.zeros(0)
            binned = [
                np.append(
                    np.bincount(
                        np.searchsorted(edges, each, side="right"), minlength=len(edges) + 1
                    ),
                    len(self.exposed[split]) - len(each),
                )
                for split, each in ((0, train), (2, test))
            ]
        return round(population_stability_index(*binned), 6)

    def _counts(self, feature: Feature, split: int) -> np.ndarray:
        """How often each id stands in the examples, or the numbers that are there."""
        column, rows = self._source(feature, split)
        rows = rows[self.exposed[split]]
        if feature.type == "number":
            values = column.to_numpy()[rows]
            return np.asarray(values[~np.isnan(values)])
        times = np.bincount(rows, minlength=len(column))
        values = column
        if feature.type == "ids":
            values, offsets = column.values, column.offsets.to_numpy()
            times = np.repeat(times, np.diff(offsets))
        return np.bincount(values.to_numpy(), weights=times, minlength=feature.size)


def label_rates(stored: Stored) -> dict[str, dict[str, float]]:
    """By split and task, the share of the known labels that are 1."""
    rates: dict[str, dict[str, float]] = {}
    for split, candidates in zip(SPLITS, stored.candidates, strict=True):
        rates[split] = {}
        for task in stored.schema.tasks:
            labels = np.asarray(candidates.column(f"label.{task}"))
            known = labels[~np.isnan(labels)]
            rates[split][task] = round(float(known.mean()), 6) if len(known) else 0.0
    return rates


def duplicates(raw: RawLog) -> tuple[int, int]:
    """How many examples repeat another's user, item and time; how many such are in several splits.

    Sampled negatives are left out.
    """
    ((more, across),) = raw.ask(
        "SELECT COALESCE(sum(n - 1), 0), count(*) FILTER (splits > 1) FROM (SELECT count(*) AS n, "
        "count(DISTINCT split) AS splits FROM exposed GROUP BY user, item, time)"
    )
    return int(more), int(across)


def users_in_several_splits(raw: RawLog) -> float:
    """The share of the users with examples that have some in several splits."""
    ((share,),) = raw.ask(
        "SELECT count(*) FILTER (n > 1) / count(*) FROM "
        "(SELECT count(DISTINCT split) AS n FROM examples GROUP BY user)"
    )
    return round(float(share), 6)
