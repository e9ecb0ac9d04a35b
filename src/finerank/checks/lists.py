"""Claims about ready-made histories: a request's steps are the lists of its row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from finerank.checks.report import Check, Findings
from finerank.checks.stored import same
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from finerank.checks.examples import AllExamples
    from finerank.checks.stored import Example, Row
    from finerank.data.schema import Feature
    from finerank.settings import HistorySettings


def check_list_windows(examples: AllExamples, name: str) -> Check:
    """Every window lies within the stored steps and is no longer than the recipe says."""
    stored, found = examples.stored, Findings()
    steps, most = stored.events(name).num_rows, examples.recipe.histories[name].max_length
    total = 0
    for split, requests in enumerate(stored.requests):
        start, end = (np.asarray(requests.column(f"{side}.{name}")) for side in ("start", "end"))
        total += len(start)
        wrong = (start < 0) | (start > end) | (end > steps) | (end - start > most)
        for request in np.flatnonzero(wrong)[:1]:
            found.note(
                f"windows {name}",
                f"{SPLITS[split]}, request {request}: expected at most {most} steps within 0 to "
                f"{steps}, found {start[request]} to {end[request]}",
            )
    what = f"each of {total:,} holds at most {most} of the steps that are stored"
    return found.check(f"windows {name}", what)


def time_order(name: str) -> Check:
    """What nobody can prove of lists that were made elsewhere."""
    why = "its lists are ready-made: that their steps came before the row can't be proved"
    return Check(f"time order {name}", "not checked", why)


class ListedSteps:
    """Compares the steps of windows with the lists of raw rows.

    Args:
        examples: names them in words.
        features: those that the checker knows.
        histories: likewise, ready-made ones.

    Attributes:
        count: history -> how many steps were compared.
        items: rows of the items that features of steps were looked up by.
    """

    def __init__(
        self, examples: AllExamples, features: list[Feature], histories: list[str]
    ) -> None:
        self.examples, self.stored, self.recipe = examples, examples.stored, examples.recipe
        self.settings = {name: self.recipe.histories[name] for name in histories}
        self.events = {name: self.stored.events(name) for name in histories}
        self.features = {
            name: [f for f in features if f.name in (each.lists or ())]
            for name, each in self.settings.items()
        }
        self.count = dict.fromkeys(histories, 0)
        self.items: set[int] = set()
        self._item_rows: dict[str, int] = {}
        if any("item" in each.schema.names for each in self.events.values()):
            keys = self.stored.entity_keys("items").to_pylist()
            self._item_rows = {key: row for row, key in enumerate(keys, start=1)}

    def problem(self, name: str, example: Example, rows: list[Row]) -> str:
        """What is wrong with the history of an example's request; empty if nothing is.

        Args:
            rows: those that the example may be.
        """
        requests = self.stored.requests[example.split]
        start, end = (
            requests.column(f"{side}.{name}")[example.request].as_py() for side in ("start", "end")
        )
        found = self.events[name].slice(start, max(0, end - start)).to_pylist()
        self.count[name] += len(found)
        self.items |= {step["item"] for step in found if "item" in step}
        expected = [self._expected(name, row) for row in rows]
        if not expected or any(same(each, self._shown(name, found)) for each in expected):
            return ""  # where there is no such row, the check of rows says so
        steps = self._shown(name, found)
        names = ", ".join([*(f.name for f in self.features[name]), *self._lookup(name)])
        place = next(
            (i for i, (a, b) in enumerate(zip(expected[0], steps, strict=False)) if not same(a, b)),
            None,
        )
        if place is None:
            return f"expected {len(expected[0])} steps by its lists, found {len(steps)}"
        return (
            f"expected step {place} ({names}) to be {expected[0][place]} by its lists, "
            f"found {steps[place]}"
        )

    def claim(self, name: str) -> str:
        """What was compared, in words."""
        return (
            f"{self.count[name]:,} steps: the newest {self.settings[name].max_length} of the lists "
            "of its row, encoded"
        )

    def _lookup(self, name: str) -> list[str]:
        return ["row of the item"] if "item" in self.events[name].schema.names else []

    def _shown(self, name: str, steps: list[Row]) -> list[list[object]]:
        columns = [f"feature.{f.name}" for f in self.features[name]]
        columns += ["item"] if self._lookup(name) else []
        return [[step[column] for column in columns] for step in steps]

    def _expected(self, name: str, row: Row) -> list[list[object]]:
        settings = self.settings[name]
        columns = [
            [
                self.stored.encode(f, raw, row["stage"])
                for raw in self._newest(settings, row, name, f.name)
            ]
            for f in self.features[name]
        ]
        if self._lookup(name):
            by = self.recipe.item_list(settings)
            assert by is not None
            raws = self._newest(settings, row, name, by)
            rows = [self._item_rows.get(raw, 0) for raw in raws]
            known = self.stored.entities_at("items", row["stage"])
            columns.append([each if each <= known else 0 for each in rows])
        return [list(step) for step in zip(*columns, strict=False)]

    def _newest(self, settings: HistorySettings, row: Row, name: str, feature: str) -> list[Any]:
        """The raw values of the steps that are kept, oldest first."""
        values = row[f"list.{name}.{feature}"] or []
        if settings.newest == "first":
            values = values[::-1]
        return list(values[-settings.max_length :])
