"""Claims about what is learnt from training rows: vocabularies, means, deviations."""

from __future__ import annotations

from math import isclose, sqrt
from typing import TYPE_CHECKING

from finerank.checks.report import Check, Findings
from finerank.checks.values import Values

if TYPE_CHECKING:
    from finerank.checks.raw import RawLog
    from finerank.data.schema import Feature


class Fitted:
    """Checks that fit anew, in SQL, each stage on its own training rows."""

    def __init__(self, raw: RawLog) -> None:
        self.raw, self.stored, self.recipe = raw, raw.stored, raw.recipe
        self.stages = [Values(raw, stage) for stage in raw.there]

    def vocabularies(self, spaces: dict[str, list[Feature]]) -> Check:
        """Each vocabulary holds the values that training rows have often enough, and no others.

        Of rows that were appended, those behind the earlier ones.
        """
        untold = sum(values.untold for values in self.stages)
        if untold and not self.stored.keys:
            return Check(
                "vocabularies", "not checked", "nothing tells which rows were drawn to train"
            )
        found, unread = Findings(), set()
        hashed = [space for space in spaces if self.stored.is_hashed(space)]
        fitted = [space for space in spaces if space not in hashed]
        for values in self.stages:
            for space in fitted:
                if any(feature.home in values.stage.lost for feature in spaces[space]):
                    unread.add(space)
                else:
                    self._check_space(space, spaces[space], found, values)
        what = f"{', '.join(fitted) or 'none'}: values of the training rows"
        if len(self.raw.stages) > 1:
            what += " of each stage, behind those of the stages before"
        what += f" ({untold:,} rows may be of them or not)" if untold else ""
        what += f"; {', '.join(hashed)}: hashed, nothing is fitted" if hashed else ""
        if unread:
            what += f"; {', '.join(sorted(unread))}: but for stages whose table is gone"
        return found.check("vocabularies", what)

    def _check_space(
        self, space: str, features: list[Feature], found: Findings, values: Values
    ) -> None:
        perhaps = values.untold > 0
        parts = " UNION ALL ".join(values.of(f, perhaps=perhaps) for f in features)
        settings = [self.recipe.features[f.name] for f in features]
        least = max(each.min_count for each in settings)
        counts = f"SELECT value, sum(n) AS n FROM ({parts}) GROUP BY value ORDER BY n DESC, value"  # noqa: S608
        first, end = self.stored.ids_of(space, values.stage.number)
        vocabulary = self.stored.vocabulary(space)
        counted = {
            value: n
            for value, n in self.raw.ask(counts)
            if vocabulary.get(value, first) >= first  # the others were known before
        }
        often = [value for value, n in counted.items() if n >= least]
        stored = {value for value, number in vocabulary.items() if first <= number < end}
        for value in sorted(stored):
            if counted.get(value, 0) < least:
                found.note(
                    "vocabularies",
                    f"{space}: expected values that training rows have at least {least} "
                    f"time{'s' * (least != 1)}, found {value!r}, which they have "
                    f"{counted.get(value, 0)} times",
                )
        if perhaps:
            return
        sizes = [each.max_size for each in settings if each.max_size is not None]
        size = min([len(often), *(max(0, most - first + 1) for most in sizes)])
        rarest = counted[often[size]] if size < len(often) else 0  # of those that may be left out
        for value in often:
            if value not in stored and counted[value] > rarest:
                found.note(
                    "vocabularies",
                    f"{space}: expected {value!r}, which training rows have {counted[value]} "
                    "times, found it missing",
                )
        if len(stored) != size:
            found.note("vocabularies", f"{space}: expected {size} values, found {len(stored)}")

    def numbers(self, features: list[Feature]) -> Check:
        """Means and standard deviations are those of the training rows of the first stage."""
        values = self.stages[0]
        if values.stage.number:
            why = "the rows that they were fitted on are gone"
            return Check("numbers", "not checked", why)
        if values.untold:
            why = f"{values.untold:,} rows can't be told to be of train or not by their keys"
            return Check("numbers", "not checked", why)
        found = Findings()
        read = [feature for feature in features if feature.home not in values.stage.lost]
        for feature in read:
            self._check_number(feature, found, values)
        names = ", ".join(f.name for f in read) or "none"
        what = f"{names}: mean and deviation of the training rows"
        what += " of the first stage" if len(self.raw.stages) > 1 else ""
        if unread := [feature.name for feature in features if feature not in read]:
            what += f"; not {', '.join(unread)}, whose table is gone"
        return found.check("numbers", what)

    def _check_number(self, feature: Feature, found: Findings, values: Values) -> None:
        finite = f"SELECT value, n FROM ({values.of(feature, perhaps=False)}) WHERE isfinite(value)"  # noqa: S608
        mean = self.raw.ask(f"SELECT fsum(value * n) / sum(n) FROM ({finite})")[0][0] or 0.0  # noqa: S608
        squares = f"SELECT fsum(n * (value - {mean!r}) ** 2) / sum(n) FROM ({finite})"  # noqa: S608
        std = sqrt(self.raw.ask(squares)[0][0] or 0.0)
        std = std if std > 1e-12 * abs(mean) else 1.0
        fitted = self.stored.numbers[feature.name]
        if not (
            isclose(fitted["mean"], mean, rel_tol=1e-12, abs_tol=1e-6 * std)
            and isclose(fitted["std"], std, rel_tol=1e-6)
        ):
            found.note(
                "numbers",
                f"{feature.name}: expected mean {mean:.9g} and standard deviation {std:.9g} "
                f"of the training rows, found {fitted['mean']:.9g} and {fitted['std']:.9g}",
            )
