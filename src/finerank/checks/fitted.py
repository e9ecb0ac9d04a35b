"""Claims about what is learnt from training rows: vocabularies, means, deviations."""

from __future__ import annotations

from math import isclose, sqrt
from typing import TYPE_CHECKING

from finerank.checks.report import Check, Findings
from finerank.checks.sql import BLANKS, text

if TYPE_CHECKING:
    from finerank.checks.raw import RawLog
    from finerank.data.schema import Feature


class Fitted:
    """Checks that fit anew, in SQL."""

    def __init__(self, raw: RawLog) -> None:
        self.raw, self.stored, self.recipe = raw, raw.stored, raw.recipe
        self.steps = self._steps()

    def _steps(self) -> str:
        """Which rows are no examples, but may be steps of a training request."""
        if not self.recipe.event_histories or self.recipe.split.by not in ("time", "last"):
            return "FALSE"
        mine = " AND v.user = rows.user" if self.recipe.split.by == "last" else ""
        begins = f"(SELECT min(v.time) FROM rows v WHERE v.split = 1{mine})"  # noqa: S608
        enters = " OR ".join(f'"enters.{name}"' for name in self.recipe.event_histories)
        return f"split = -1 AND ({enters}) AND time < {begins}"

    def _train_values(self, feature: Feature, *, perhaps: bool) -> str:
        """The raw values of a feature over the training rows, and how often each counts."""
        train = f"split = 0 OR ({self.steps})"
        train += " OR (kept AND split IS NULL)" if perhaps else ""
        column = f'"feature.{feature.name}"'
        if feature.home == "log":
            return f"SELECT {column} AS value, 1 AS n FROM rows WHERE {train}"  # noqa: S608
        side = feature.home[:-1]
        counts = f"SELECT {side} AS row, count(*) AS n FROM rows WHERE {train} GROUP BY {side}"  # noqa: S608
        for items in self._step_items(feature, perhaps=perhaps):
            counts += f" UNION ALL SELECT row, n FROM ({items}) JOIN items_keys ON key = value"  # noqa: S608
        return (
            f"SELECT t.{column} AS value, c.n FROM {feature.home} t JOIN ({counts}) c USING (row)"  # noqa: S608
        )

    def _step_values(self, feature: str, *, perhaps: bool) -> list[str]:
        """The raw values of a feature in the lists of training rows, those that are kept."""
        return [
            self._kept(name, feature, perhaps=perhaps)
            for name, history in self.recipe.list_histories.items()
            if feature in (history.lists or ())
        ]

    def _step_items(self, feature: Feature, *, perhaps: bool) -> list[str]:
        """The raw ids by which a feature of the item table is looked up in training rows' lists."""
        return [
            self._kept(name, by, perhaps=perhaps)
            for name, history in self.recipe.list_histories.items()
            if feature.name in history.features
            and feature.name not in (history.lists or ())
            and (by := self.recipe.item_list(history)) is not None
        ]

    def _kept(self, name: str, feature: str, *, perhaps: bool) -> str:
        history, column = self.recipe.histories[name], f'"list.{name}.{feature}"'
        most = history.max_length
        last = f"{column}[greatest(len({column}) - {most} + 1, 1):]"
        lists = last if history.newest == "last" else f"{column}[1:{most}]"
        train = "split = 0" + (" OR (kept AND split IS NULL)" if perhaps else "")
        values = f"SELECT unnest({lists}) AS value, 1 AS n FROM rows WHERE {train}"  # noqa: S608
        return f"SELECT * FROM ({values}) WHERE value IS NOT NULL"  # noqa: S608

    def _untold(self) -> int:
        """How many examples may be training rows or not, by their keys."""
        return int(self.raw.ask("SELECT count(*) FROM rows WHERE kept AND NOT told")[0][0])

    def vocabularies(self, spaces: dict[str, list[Feature]]) -> Check:
        """Each vocabulary holds the values that training rows have often enough, and no others."""
        untold = self._untold()
        if untold and not self.stored.keys:
            return Check(
                "vocabularies", "not checked", "nothing tells which rows were drawn to train"
            )
        found = Findings()
        hashed = [space for space in spaces if self.stored.is_hashed(space)]
        fitted = [space for space in spaces if space not in hashed]
        for space in fitted:
            self._check_space(space, spaces[space], found, perhaps=untold > 0)
        what = f"{', '.join(fitted) or 'none'}: values of the training rows"
        what += f" ({untold:,} rows may be of them or not)" if untold else ""
        what += f"; {', '.join(hashed)}: hashed, nothing is fitted" if hashed else ""
        return found.check("vocabularies", what)

    def _check_space(
        self, space: str, features: list[Feature], found: Findings, *, perhaps: bool
    ) -> None:
        own = [f for f in features if not self.recipe.only_listed(f.name)]
        parts = [self._unnested(f, perhaps=perhaps) for f in own]
        for f in features:
            parts += self._step_values(f.name, perhaps=perhaps)
        values = " UNION ALL ".join(parts)
        settings = [self.recipe.features[f.name] for f in features]
        least = max(each.min_count for each in settings)
        counts = f"SELECT value, sum(n) AS n FROM ({values}) GROUP BY value ORDER BY n DESC, value"  # noqa: S608
        counted = dict(self.raw.ask(counts))
        often = [value for value, n in counted.items() if n >= least]
        stored = self.stored.vocabulary(space)
        for value in stored:
            if counted.get(value, 0) < least:
                found.note(
                    "vocabularies",
                    f"{space}: expected values that training rows have at least {least} "
                    f"time{'s' * (least != 1)}, found {value!r}, which they have "
                    f"{counted.get(value, 0)} times",
                )
        if perhaps:
            return
        size = min([len(often), *(each.max_size for each in settings if each.max_size is not None)])
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

    def _unnested(self, feature: Feature, *, perhaps: bool) -> str:
        values = self._train_values(feature, perhaps=perhaps)
        if feature.type == "ids":
            lists = "value"
            if feature.separator is not None:
                lists = f"string_split(value, {text(feature.separator)})"
            values = f"SELECT trim(unnest({lists}), {BLANKS}) AS value, n FROM ({values})"  # noqa: S608
            return f"SELECT * FROM ({values}) WHERE value <> ''"  # noqa: S608
        return f"SELECT * FROM ({values}) WHERE value IS NOT NULL"  # noqa: S608

    def numbers(self, features: list[Feature]) -> Check:
        """Means and standard deviations are those of the training rows."""
        if untold := self._untold():
            why = f"{untold:,} rows can't be told to be of train or not by their keys"
            return Check("numbers", "not checked", why)
        found = Findings()
        for feature in features:
            parts = self._step_values(feature.name, perhaps=False)
            if not self.recipe.only_listed(feature.name):
                parts.append(self._train_values(feature, perhaps=False))
            values = " UNION ALL ".join(parts)
            values = f"SELECT value, n FROM ({values}) WHERE isfinite(value)"  # noqa: S608
            mean = self.raw.ask(f"SELECT fsum(value * n) / sum(n) FROM ({values})")[0][0] or 0.0  # noqa: S608
            squares = f"SELECT fsum(n * (value - {mean!r}) ** 2) / sum(n) FROM ({values})"  # noqa: S608
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
        names = ", ".join(f.name for f in features) or "none"
        return found.check("numbers", f"{names}: mean and deviation of the training rows")
