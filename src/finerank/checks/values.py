"""The raw values that a stage's vocabularies, means and deviations were fitted on, as SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finerank.checks.sql import BLANKS, text

if TYPE_CHECKING:
    from finerank.checks.raw import RawLog
    from finerank.checks.stages import Stage
    from finerank.data.schema import Feature


class Values:
    """What the rows have that trained when a stage was prepared or appended.

    Args:
        stage: one whose log is there.

    Attributes:
        untold: how many of its examples may have trained or not, by their keys.
    """

    def __init__(self, raw: RawLog, stage: Stage) -> None:
        self.raw, self.recipe, self.stage = raw, raw.recipe, stage
        self.rows = f"rows_{stage.number}"
        raw.engine.execute(
            f"CREATE OR REPLACE VIEW {self.rows} AS SELECT * REPLACE (own AS split) FROM rows "  # noqa: S608
            f"WHERE stage = {stage.number}"
        )
        self.untold = int(
            raw.ask(f"SELECT count(*) FROM {self.rows} WHERE kept AND NOT told")[0][0]  # noqa: S608
        )
        self.steps = self._steps()

    def of(self, feature: Feature, *, perhaps: bool) -> str:
        """A query of the values of a feature and how often each counts: ``value`` and ``n``.

        Args:
            perhaps: whether rows count that may have trained or not.
        """
        parts = []
        if not self.recipe.only_listed(feature.name):
            parts.append(self._unnested(feature, perhaps=perhaps))
        for name, history in self.recipe.list_histories.items():
            if feature.name in (history.lists or ()):
                parts.append(self._kept(name, feature.name, perhaps=perhaps))
        return " UNION ALL ".join(parts)

    def _steps(self) -> str:
        """Which rows are no examples, but may be steps of a training request."""
        by = self.stage.split.by
        if not self.recipe.event_histories or by not in ("time", "last"):
            return "FALSE"
        mine = f" AND v.user = {self.rows}.user" if by == "last" else ""
        begins = f"(SELECT min(v.time) FROM {self.rows} v WHERE v.split = 1{mine})"  # noqa: S608
        enters = " OR ".join(f'"enters.{name}"' for name in self.recipe.event_histories)
        return f"split = -1 AND ({enters}) AND time < {begins}"

    def _train_values(self, feature: Feature, *, perhaps: bool) -> str:
        """The raw values of a feature over the training rows, and how often each counts."""
        train = f"split = 0 OR ({self.steps})"
        train += " OR (kept AND split IS NULL)" if perhaps else ""
        column = f'"feature.{feature.name}"'
        if feature.home == "log":
            return f"SELECT {column} AS value, 1 AS n FROM {self.rows} WHERE {train}"  # noqa: S608
        side = feature.home[:-1]
        counts = (
            f"SELECT {side} AS row, count(*) AS n FROM {self.rows} WHERE {train} GROUP BY {side}"  # noqa: S608
        )
        for items in self._step_items(feature, perhaps=perhaps):
            counts += f" UNION ALL SELECT row, n FROM ({items}) JOIN items_keys ON key = value"  # noqa: S608
        table = f"{feature.home}_{self.stage.number}"
        return f"SELECT t.{column} AS value, c.n FROM {table} t JOIN ({counts}) c USING (row)"  # noqa: S608

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
        values = f"SELECT unnest({lists}) AS value, 1 AS n FROM {self.rows} WHERE {train}"  # noqa: S608
        return f"SELECT * FROM ({values}) WHERE value IS NOT NULL"  # noqa: S608

    def _unnested(self, feature: Feature, *, perhaps: bool) -> str:
        values = self._train_values(feature, perhaps=perhaps)
        if feature.type == "ids":
            lists = "value"
            if feature.separator is not None:
                lists = f"string_split(value, {text(feature.separator)})"
            values = f"SELECT trim(unnest({lists}), {BLANKS}) AS value, n FROM ({values})"  # noqa: S608
            return f"SELECT * FROM ({values}) WHERE value <> ''"  # noqa: S608
        return f"SELECT * FROM ({values}) WHERE value IS NOT NULL"  # noqa: S608
