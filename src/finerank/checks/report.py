"""What a check of a prepared data set found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["passed", "failed", "not checked"]


@dataclass(frozen=True)
class Check:
    """One claim about the prepared data, and whether it holds.

    Attributes:
        what: the claim, and on how much it was checked; or why it wasn't.
        counterexample: the first one found, in words; empty where it holds.
    """

    name: str
    status: Status
    what: str
    counterexample: str = ""


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        folder: the prepared data set.
        examples: split -> how many examples of it were drawn for recomputation.
        checks: the claims.
        limits: what of the recipe this check doesn't know, so that it wasn't checked.
        duplicates: examples of the user, item and time of another one; None where the log lacks
            one of the three.
        users_in_several_splits: share of the users; None where the log names none.
        label_rate: split -> task -> share of the known labels that are 1.
        unknown_rate: split -> feature -> share of the examples whose value is unknown or missing.
        drift: feature -> population stability index from train to test, at least 0.
        warnings: what to look at; none of it fails the check.
    """

    folder: str
    examples: dict[str, int]
    checks: tuple[Check, ...]
    limits: tuple[str, ...]
    duplicates: int | None
    users_in_several_splits: float | None
    label_rate: dict[str, dict[str, float]]
    unknown_rate: dict[str, dict[str, float]]
    drift: dict[str, float]
    warnings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(each.status != "failed" for each in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As plain mappings and lists."""
        return {"passed": self.passed, **asdict(self)}


class Findings:
    """The first counterexample to each claim."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}

    def note(self, name: str, counterexample: str) -> None:
        """Keep it if it is the first of its claim."""
        self.first.setdefault(name, counterexample)

    def check(self, name: str, what: str) -> Check:
        """The claim with what was noted."""
        counterexample = self.first.get(name, "")
        return Check(name, "failed" if counterexample else "passed", what, counterexample)
