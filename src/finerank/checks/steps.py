"""The claim about a sampled request's histories: its user's newest events before it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from finerank.checks.stored import same

if TYPE_CHECKING:
    from collections.abc import Callable

    from finerank.checks.examples import AllExamples
    from finerank.checks.stored import Example, Row
    from finerank.data.schema import Feature


class Steps:
    """Compares the steps of windows with raw rows.

    Args:
        examples: names them in words.
        features: those that the checker knows.
        histories: likewise.

    Attributes:
        count: history -> how many steps were compared.
        items: rows of the items seen in steps.
    """

    def __init__(
        self, examples: AllExamples, features: list[Feature], histories: list[str]
    ) -> None:
        self.examples, self.stored, self.raw = examples, examples.stored, examples.raw
        self.settings = {name: examples.recipe.histories[name] for name in histories}
        self.events = {name: self.stored.events(name) for name in histories}
        self.features = {
            name: [f for f in features if f.name in each.features and f.home == "log"]
            for name, each in self.settings.items()
        }
        self.count = dict.fromkeys(histories, 0)
        self.items: set[int] = set()

    def problem(self, name: str, example: Example, rows: list[Row]) -> str:
        """What is wrong with the history of an example's request; empty if nothing is.

        Args:
            rows: all of its user.
        """
        steps, past = self._window(name, example), self._past(name, example, rows)
        if self.raw.begins is not None:  # nothing tells of the steps before
            steps = [step for step in steps if step["time"] >= self.raw.begins]
        self.count[name] += len(steps)
        self.items |= {step["item"] for step in steps if "item" in step}
        shown = self.stored.moment
        late = [step for step in steps if step["time"] >= example.time]
        if late:
            return (
                f"expected steps before {shown(example.time)}, "
                f"found one at {shown(late[0]['time'])}, which is not before it"
            )
        times = sorted(row["time"] for row in past)[-self.settings[name].max_length :]
        if [step["time"] for step in steps] != times:
            found = _listed([step["time"] for step in steps], shown)
            return f"expected {_listed(times, shown)}, found {found}"
        left = defaultdict(list)  # of rows of one time, preparation may keep any and in any order
        for row in past:
            left[row["time"]].append(row)
        for step in steps:
            there = left[step["time"]]
            place = next((i for i, row in enumerate(there) if self._same(name, row, step)), None)
            if place is None:
                expected = " or ".join(self._row_in_words(name, row) for row in there)
                return (
                    f"expected at {shown(step['time'])} the step {expected}, "
                    f"found {self._step_in_words(name, step)}"
                )
            del there[place]
        return ""

    def claim(self, name: str) -> str:
        """What was compared, in words."""
        settings = self.settings[name]
        age = "" if settings.max_age is None else f" within {settings.max_age}"
        return (
            f"{self.count[name]:,} steps: the newest {settings.max_length}{age} before the "
            "request, with their item and features"
        )

    def _window(self, name: str, example: Example) -> list[Row]:
        requests = self.stored.requests[example.split]
        start, end = (
            requests.column(f"{side}.{name}")[example.request].as_py() for side in ("start", "end")
        )
        steps: list[Row] = self.events[name].slice(start, max(0, end - start)).to_pylist()
        return steps

    def _past(self, name: str, example: Example, rows: list[Row]) -> list[Row]:
        oldest, age = -float("inf"), self.settings[name].max_age
        if age is not None:
            oldest = example.time - self.raw.duration(age)
        return [r for r in rows if r[f"enters.{name}"] and oldest <= r["time"] < example.time]

    def _same(self, name: str, row: Row, step: Row) -> bool:
        return ("item" not in step or row["item"] == step["item"]) and all(
            same(self.raw.expected(f, row), step[f"feature.{f.name}"]) for f in self.features[name]
        )

    def _row_in_words(self, name: str, row: Row) -> str:
        values = [f"{f.name} {self.raw.expected(f, row)}" for f in self.features[name]]
        return " ".join([self.examples.who(None, row["item"], None), *values])

    def _step_in_words(self, name: str, step: Row) -> str:
        values = [f"{f.name} {step[f'feature.{f.name}']}" for f in self.features[name]]
        return " ".join([self.examples.who(None, step.get("item"), None), *values])


def _listed(times: list[Any], shown: Callable[[Any], str]) -> str:
    if not times:
        return "no steps"
    return (
        f"{len(times)} step{'s' * (len(times) != 1)} from {shown(times[0])} to {shown(times[-1])}"
    )
