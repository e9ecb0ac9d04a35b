"""The claims about a sampled example's own features and labels, against the raw rows like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finerank.checks.stored import same

if TYPE_CHECKING:
    from finerank.checks.examples import AllExamples
    from finerank.checks.report import Findings
    from finerank.checks.stored import Example, Row
    from finerank.data.schema import Feature


class OwnRows:
    """Compares examples with the rows of their user, item and time.

    Args:
        examples: names them in words.
        features: those that the checker knows.
    """

    def __init__(self, examples: AllExamples, features: list[Feature], found: Findings) -> None:
        self.examples, self.stored, self.raw = examples, examples.stored, examples.raw
        self.recipe, self.found = examples.recipe, found
        in_log = [f for f in features if f.home == "log" and f.side != "history"]
        self.of_request = [f for f in in_log if f.side != "item"]
        self.of_item = [f for f in in_log if f.side == "item"]

    def check(self, example: Example, rows: list[Row]) -> list[Row]:
        """Note what is wrong with an example.

        Args:
            rows: all of its user.

        Returns:
            The rows that it may be; of a negative, those that it may stand beside.
        """
        keys = [key for key in self.stored.keys if key != "item"]
        beside = [
            row
            for row in rows
            if row["kept"]
            and row["split"] in (example.split, None)
            and all(row[key] == getattr(example, key) for key in keys)
        ]
        own = [row for row in beside if row["item"] == example.item]
        sampled = not own and self.recipe.samples_negatives
        if sampled:
            own = beside
            self._check_item_ids(example)
        values = self._values(example, sampled=sampled)
        fitting = [row for row in own if not self._differing(row, values)]
        if own and not fitting:
            wrong = self._differing(own[0], values)[0]
            self._note_feature(
                example, wrong, self.raw.expected(wrong, own[0]), values[wrong], "by the log"
            )
        self._check_labels(example, fitting or own, rows, sampled=sampled)
        return fitting or own

    def _differing(self, row: Row, values: dict[Feature, object]) -> list[Feature]:
        return [f for f in values if not same(self.raw.expected(f, row), values[f])]

    def _values(self, example: Example, *, sampled: bool) -> dict[Feature, object]:
        """The features that an example's own row holds; of a negative, those of its request."""
        requests = self.stored.requests[example.split]
        candidates = self.stored.candidates[example.split]
        values: dict[Feature, object] = {
            f: requests.column(f"feature.{f.name}")[example.request].as_py()
            for f in self.of_request
        }
        if not sampled:
            for f in self.of_item:
                values[f] = candidates.column(f"feature.{f.name}")[example.number].as_py()
        return values

    def _check_item_ids(self, example: Example) -> None:
        """The features of a sampled item that the log holds are its id."""
        key = self.stored.entity_keys("items")[example.item - 1].as_py()
        for feature in self.of_item:
            column = self.stored.candidates[example.split].column(f"feature.{feature.name}")
            expected, found = self.stored.encode(feature, key), column[example.number].as_py()
            if not same(expected, found):
                self._note_feature(example, feature, expected, found, "of the sampled item")

    def _note_feature(
        self, example: Example, feature: Feature, expected: object, found: object, by: str
    ) -> None:
        about = self.examples.describe(example.split, example.number)
        text = f"{about}: expected {feature.name} {expected} {by}, found {found}"
        self.found.note("features", text)

    def _check_labels(
        self, example: Example, own: list[Row], rows: list[Row], *, sampled: bool
    ) -> None:
        candidates = self.stored.candidates[example.split]
        labels = {
            task: _known(candidates.column(f"label.{task}")[example.number].as_py())
            for task in self.recipe.tasks
        }
        expected = [{task: self._label(task, row, rows) for task in labels} for row in own]
        if sampled:
            expected = [
                {task: None if label is None else 0.0 for task, label in each.items()}
                for each in expected
                if 1.0 in each.values()
            ]
        if not expected or labels in expected:
            return  # where there is no such row, the check of rows says so
        nearest = min(expected, key=lambda each: sum(each[t] != labels[t] for t in labels))
        for task, label in labels.items():
            if nearest[task] != label:
                about = self.examples.describe(example.split, example.number)
                why = " beside its positive" if sampled else ""
                self.found.note(
                    f"labels {task}",
                    f"{about}: expected {_shown(nearest[task])}{why}, found {_shown(label)}",
                )

    def _label(self, task: str, row: Row, rows: list[Row]) -> float | None:
        """The label of a row: its expression's value, or whether its event followed."""
        settings = self.recipe.tasks[task]
        if settings.within is None:
            return _known(row[f"label.{task}"])
        until = row["time"] + self.raw.duration(settings.within)
        if until > row["cut"] or (until == row["cut"] and not row["closed"]):
            return None
        return float(
            any(
                each["event"] == settings.event
                and each["item"] == row["item"]
                and row["time"] <= each["time"] <= until
                for each in rows
            )
        )


def _known(label: float | None) -> float | None:
    return None if label is None or label != label else float(label)  # noqa: PLR0124  (NaN)


def _shown(label: float | None) -> str:
    return "unknown" if label is None else f"{label:g}"
