"""A sample of examples, each recomputed in plain Python from the raw rows of its user."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finerank.checks.lists import ListedSteps
from finerank.checks.own import OwnRows
from finerank.checks.report import Check, Findings
from finerank.checks.steps import Steps
from finerank.checks.stored import Example, same
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finerank.checks.examples import AllExamples
    from finerank.checks.stored import Row
    from finerank.data.schema import Feature, Home


class Sample:
    """Examples drawn evenly from the splits.

    Args:
        all_examples: names them in words.
        features: those that the checker knows.
        histories: likewise.
        size: how many examples.
    """

    def __init__(
        self,
        all_examples: AllExamples,
        features: list[Feature],
        histories: list[str],
        *,
        size: int,
        seed: int,
    ) -> None:
        self.all_examples = all_examples
        self.stored, self.raw = all_examples.stored, all_examples.raw
        self.features, self.found = features, Findings()
        self.examples = self._draw(size, seed)
        recipe = all_examples.recipe
        of_events, of_lists = (
            [name for name in histories if name in each]
            for each in (recipe.event_histories, recipe.list_histories)
        )
        self.steps = Steps(all_examples, features, of_events)
        self.lists = ListedSteps(all_examples, features, of_lists)
        self.own = OwnRows(all_examples, features, self.found)

    def _draw(self, size: int, seed: int) -> list[Example]:
        random = np.random.default_rng(seed)
        drawn: list[Example] = []
        firsts = self.raw.first_examples
        sizes = [
            candidates.num_rows - first
            for candidates, first in zip(self.stored.candidates, firsts, strict=True)
        ]
        smallest_first = np.argsort(sizes).tolist()
        for split, left in zip(smallest_first, (3, 2, 1), strict=True):
            count = min(sizes[split], (size - len(drawn)) // left)  # what one lacks others give
            numbers = firsts[split] + np.sort(random.choice(sizes[split], count, replace=False))
            requests = self.stored.request_of(split)[numbers]
            users, times = self.stored.users(split)[requests], self.stored.times(split)[requests]
            items = self.stored.items(split)[numbers]
            columns = (each.tolist() for each in (numbers, requests, users, items, times))
            drawn += [Example(split, *row) for row in zip(*columns, strict=True)]
        return drawn

    def sizes(self) -> dict[str, int]:
        """How many examples of each split were drawn."""
        return {
            name: sum(each.split == split for each in self.examples)
            for split, name in enumerate(SPLITS)
        }

    def checks(self) -> list[Check]:
        """All claims about the sample."""
        tasks = self.all_examples.recipe.tasks
        names = [f"history {name}" for name in (*self.steps.count, *self.lists.count)]
        names += ["features", *(f"labels {task}" for task in tasks)]
        if not self.stored.keys:
            why = "the log names no user, item or time to find an example's row by"
            return [Check(name, "not checked", why) for name in names]
        self._compare()
        what = {f"history {name}": self.steps.claim(name) for name in self.steps.count}
        what |= {f"history {name}": self.lists.claim(name) for name in self.lists.count}
        what["features"] = "those of its row, its user, its item and its steps' items"
        for name, task in tasks.items():
            what[f"labels {name}"] = task.label or f"{task.event} within {task.within}"
        number = f"{len(self.examples):,} sampled examples"
        return [self.found.check(name, f"{number}: {what[name]}") for name in names]

    def _compare(self) -> None:
        for rows, examples in self._by_rows():
            for example in examples:
                for history in self.steps.count:
                    if problem := self.steps.problem(history, example, rows):
                        about = self.all_examples.describe(example.split, example.number)
                        self.found.note(f"history {history}", f"{about}: {problem}")
                own = self.own.check(example, rows)
                for history in self.lists.count:
                    if problem := self.lists.problem(history, example, own):
                        about = self.all_examples.describe(example.split, example.number)
                        self.found.note(f"history {history}", f"{about}: {problem}")
        self._check_entities("users", {each.user for each in self.examples})
        self._check_entities(
            "items", {each.item for each in self.examples} | self.steps.items | self.lists.items
        )

    def _by_rows(self) -> Iterator[tuple[list[Row], list[Example]]]:
        """The raw rows of a user, and the examples of it; one user after the other."""
        first = self.stored.keys[0]  # without a user, by item or time
        groups = defaultdict(list)
        for each in self.examples:
            groups[getattr(each, first)].append(each)
        keys = [first] if first == "user" else self.stored.keys
        wanted = {key: pa.array([getattr(e, key) for e in self.examples]) for key in keys}
        self.raw.engine.register("wanted", pa.table(wanted))
        self.raw.engine.execute(
            f"CREATE TABLE mine AS SELECT * FROM rows SEMI JOIN wanted USING ({', '.join(keys)}) "  # noqa: S608
            f"ORDER BY {first}, time"
        )
        for key, examples in groups.items():
            yield self.raw.dicts(f"SELECT * FROM mine WHERE {first} = {key}"), examples  # noqa: S608

    def _check_entities(self, home: Home, rows: set[int]) -> None:
        """The features of the users or items that the sample touched, against their table."""
        features = [f for f in self.features if f.home == home]
        if not features or not rows:
            return
        stored = self.stored.entity_features(home)
        self.raw.engine.register("touched", pa.table({"row": sorted(rows)}))
        for raw in self.raw.dicts(f"SELECT * FROM {home} SEMI JOIN touched USING (row)"):  # noqa: S608
            for feature in features:
                expected = self.raw.expected(feature, raw)
                found = stored.column(feature.name)[raw["row"]].as_py()
                if not same(expected, found):
                    self.found.note(
                        "features",
                        f"{home[:-1]} {raw['key']!r}: expected {feature.name} {expected} "
                        f"by the table of {home}, found {found}",
                    )
