"""`finerank check`: proof on a prepared data set that it holds what the raw log says."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import ibis

from finerank.checks.examples import AllExamples
from finerank.checks.facts import (
    LARGE,
    MODERATE,
    Columns,
    duplicates,
    label_rates,
    users_in_several_splits,
)
from finerank.checks.fitted import Fitted
from finerank.checks.limits import of_part, unknown_parts
from finerank.checks.lists import check_list_windows, time_order
from finerank.checks.raw import RawLog, raw_log
from finerank.checks.report import Check, Report
from finerank.checks.sampled import Sample
from finerank.checks.stored import Stored
from finerank.checks.windows import check_windows
from finerank.errors import FinerankError
from finerank.progress import Progress, silent
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from ibis.backends.duckdb import Backend

    from finerank.data.schema import Feature


def check(
    folder: str | Path, *, sample: int = 1000, seed: int = 0, progress: Progress = silent
) -> Report:
    """Check that nothing in a prepared data set comes from where it may not.

    All is recomputed from the raw files, by other means than those of preparation: a sample of
    examples in plain Python, the rest in SQL.

    Args:
        folder: what `finerank prepare` wrote.
        sample: how many examples to recompute, drawn evenly from the splits.
        seed: of the draw.
        progress: told of each step.

    Raises:
        FinerankError: the folder holds no prepared data set, or the raw files are gone or have
            changed since.
    """
    if sample < 1:
        raise FinerankError("sample", expected="at least one example", found=str(sample))
    stored = Stored(folder)
    with tempfile.TemporaryDirectory(prefix="finerank-check-") as place:
        engine = ibis.duckdb.connect(Path(place) / "check.duckdb")
        try:
            return _Checker(engine, stored, progress).run(sample, seed)
        except duckdb.Error as error:
            raise FinerankError(
                f"{folder}",
                expected="raw tables in which its recipe can be recomputed",
                found=" ".join(str(error).split()),
            ) from error
        finally:
            engine.disconnect()


_DECIDE_ALL = ("recipe", "log", "users", "items", "split", "tasks", "negatives")


class _Checker:
    """One run of `check`."""

    def __init__(self, engine: Backend, stored: Stored, progress: Progress) -> None:
        self.engine, self.stored, self.progress = engine, stored, progress
        self.recipe = stored.recipe
        self.limits = unknown_parts(self.recipe)
        self.features = [
            f for f in stored.schema.features if not of_part(self.limits, f"features.{f.name}")
        ]

    def run(self, sample: int, seed: int) -> Report:
        """All checks and facts."""
        if blind := of_part(self.limits, *_DECIDE_ALL):
            raise FinerankError(
                str(self.stored.folder),
                expected="a recipe whose parts this check knows",
                found=", ".join(blind),
                fix="Nothing can be proved of what it doesn't know.",
            )
        with self.progress("reading the raw log", None):
            raw = RawLog(self.engine, self.stored, self.features)
            examples = AllExamples(raw)
        with self.progress("checking all examples", None):
            checks = [raw_log(raw)] if len(raw.stages) > 1 else []
            checks += [examples.rows(), examples.split()]
            for name in self._histories(known=True):
                listed = name in self.recipe.list_histories
                checks += [(check_list_windows if listed else check_windows)(examples, name)]
                checks += [time_order(name)] if listed else []
            checks += [examples.negatives()] if self.recipe.samples_negatives else []
            if self.recipe.negatives is not None and self.recipe.negatives.fresh:
                checks.append(examples.drawn_in_training())
        with self.progress("fitting anew", None):
            fitted = Fitted(raw)
            checks.append(fitted.vocabularies(self._spaces()))
            checks.append(fitted.numbers([f for f in self.features if f.type == "number"]))
        with self.progress("recomputing a sample", None):
            known = self._histories(known=True)
            sampled = Sample(examples, self.features, known, size=sample, seed=seed)
            checks += sampled.checks()
            checks += [
                Check(f"history {name}", "not checked", "a setting that this check doesn't know")
                for name in self._histories(known=False)
            ]
        with self.progress("counting", None):
            return self._report(raw, examples, sampled, tuple(checks))

    def _histories(self, *, known: bool) -> list[str]:
        """The histories of which this check knows every setting, or the others."""
        return [
            name
            for name in self.recipe.histories
            if known != bool(of_part(self.limits, f"histories.{name}"))
        ]

    def _spaces(self) -> dict[str, list[Feature]]:
        """The features of each id space, where all of them are known."""
        spaces: dict[str, list[Feature]] = {}
        for feature in self.stored.schema.features:
            if feature.space is not None:
                spaces.setdefault(feature.space, []).append(feature)
        return {
            space: features
            for space, features in spaces.items()
            if all(feature in self.features for feature in features)
        }

    def _report(
        self, raw: RawLog, examples: AllExamples, sampled: Sample, checks: tuple[Check, ...]
    ) -> Report:
        columns = Columns(self.stored, examples.exposed())
        shown = [f for f in self.features if f.side != "history"]
        drift = {f.name: columns.drift(f) for f in shown if f.type != "vector"}
        warnings = [
            f"{name} drifts from train to test: population stability index {value:.3f} "
            + (f"(large, from {LARGE} on)" if value >= LARGE else f"(moderate, from {MODERATE} on)")
            for name, value in drift.items()
            if value >= MODERATE
        ]
        twice = None
        if len(self.stored.keys) == 3:  # noqa: PLR2004
            twice, across = duplicates(raw)
            if across:
                warnings.append(
                    f"{across:,} combinations of user, item and time stand in several splits"
                )
        if raw.split.by in ("random", "files") and self.recipe.log.time is not None:
            warnings.append(
                f"split.by: {raw.split.by} makes no claim about time: "
                "the model may train on rows that are newer than those it is tested on"
            )
        return Report(
            folder=str(self.stored.folder),
            examples=sampled.sizes(),
            checks=checks,
            limits=tuple(self.limits),
            duplicates=twice,
            users_in_several_splits=users_in_several_splits(raw)
            if "user" in self.stored.keys
            else None,
            label_rate=label_rates(self.stored),
            unknown_rate={
                split: {f.name: columns.unknown_rate(f, number) for f in shown}
                for number, split in enumerate(SPLITS)
            },
            drift=drift,
            warnings=tuple(warnings),
        )
