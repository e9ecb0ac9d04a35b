"""Claims about all prepared examples: they are rows of the log, split and sampled as told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from finerank.checks.report import Check, Findings
from finerank.settings import SPLITS, LastSplit, TimeSplit

if TYPE_CHECKING:
    from finerank.checks.raw import RawLog


class AllExamples:
    """Checks that look at every prepared example, in a few queries."""

    def __init__(self, raw: RawLog) -> None:
        self.raw, self.stored, self.recipe = raw, raw.stored, raw.recipe
        told = [] if raw.split.by == "random" else ["split"]
        self.keys = [*told, *self.stored.keys]
        self._load_exposed()

    def _load_exposed(self) -> None:
        """The table ``beyond``: prepared examples beyond the log's, and ``exposed``: the others."""
        if not self.stored.keys:
            self.raw.engine.execute("CREATE VIEW exposed AS SELECT * FROM examples")
            return
        keys = ", ".join(self.keys)
        self.raw.engine.execute(
            "CREATE TABLE beyond AS SELECT p.*, n - COALESCE(of_log, 0) AS more FROM "  # noqa: S608
            f"(SELECT {keys}, count(*) AS n, min(split) AS in_split, "
            f"arg_min(number, split) AS number FROM examples GROUP BY {keys}) p LEFT JOIN "
            f"(SELECT {keys}, count(*) AS of_log FROM rows WHERE split IS DISTINCT FROM -1 "
            f"GROUP BY {keys}) r USING ({keys}) WHERE n > COALESCE(of_log, 0)"
        )
        self.raw.engine.execute(
            f"CREATE VIEW exposed AS SELECT * FROM examples ANTI JOIN beyond USING ({keys})"  # noqa: S608
        )

    def describe(self, split: int, number: int) -> str:
        """An example in words."""
        ((user, item, time),) = self.raw.ask(
            f"SELECT user, item, time FROM examples WHERE split = {split} AND number = {number}"  # noqa: S608
        )
        return f"{SPLITS[split]}, example {number}: {self.who(user, item, time)}"

    def who(self, user: int | None, item: int | None, time: float | None) -> str:
        """A user, an item and a time in words, as far as the log names them."""
        parts = []
        for home, row in (("users", user), ("items", item)):
            if row is not None and home[:-1] in self.stored.keys:
                keys = self.raw.ask(f"SELECT key FROM {home}_keys WHERE row = {row}")  # noqa: S608
                parts.append(f"{home[:-1]} {keys[0][0]!r}" if keys else f"an unknown {home[:-1]}")
        if time is not None and "time" in self.stored.keys:
            parts.append(f"at {self.stored.moment(time)}")
        return " ".join(parts)

    def rows(self) -> Check:
        """Every example is a row of the log, in its split; or a negative beside one."""
        if not self.stored.keys:
            return Check("rows", "not checked", "the log names no user, item or time to find rows")
        found, beside = Findings(), ""
        if self.recipe.samples_negatives:
            keys = [key for key in self.keys if key != "item"]
            on = " AND ".join(f"r.{key} = b.{key}" for key in keys)
            beside = f" WHERE NOT EXISTS (FROM rows r WHERE r.kept AND {on})"
        wrong = self.raw.ask(
            f"SELECT in_split, number, more, n FROM beyond b{beside} ORDER BY ALL LIMIT 1"  # noqa: S608
        )
        for split, number, more, n in wrong:
            keys = [key for key in self.stored.keys if key != "item" or not beside]
            on = " AND ".join(f"r.{key} = e.{key}" for key in keys)
            there = self.raw.ask(
                f"SELECT DISTINCT COALESCE(r.split, -2) FROM rows r, examples e WHERE {on} AND "  # noqa: S608
                f"e.split = {split} AND e.number = {number} ORDER BY 1"
            )
            names = {-2: "one of several sets", -1: "no example"}
            places = " and ".join(names.get(each, f"in {SPLITS[each]}") for (each,) in there)
            said = f"whose rows are {places}" if there else "which no row of the log has"
            found.note(
                "rows",
                f"{self.describe(split, number)}: expected no more than {n - more} such examples "
                f"in {SPLITS[split]} by the log and the recipe's split, found {n} ({said})",
            )
        ((total,),) = self.raw.ask("SELECT count(*) FROM examples")
        beside = ", or a sampled negative beside one" if self.recipe.samples_negatives else ""
        what = f"each of {total:,} examples is a row of the log{beside}"
        return found.check(
            "rows", what if self.raw.split.by == "random" else f"{what}, in its split"
        )

    def split(self) -> Check:
        """Times of the splits, over all requests."""
        split = self.raw.split
        if not isinstance(split, TimeSplit | LastSplit):
            return Check("split", "not checked", f"by: {split.by} makes no claim about time")
        found = Findings()
        if isinstance(split, TimeSplit):
            self._in_order_of_time(found)
            return found.check(
                "split", "by time: train ends before valid begins, valid before test"
            )
        order = self.raw.ask(
            "SELECT a.user, a.split, a.number, a.time, b.split, b.time FROM (SELECT user, split, "
            "max(time) AS time, arg_max(number, time) AS number FROM examples GROUP BY ALL) a, "
            "(SELECT user, split, min(time) AS time FROM examples GROUP BY ALL) b WHERE "
            "a.user = b.user AND a.split < b.split AND a.time >= b.time ORDER BY ALL LIMIT 1"
        )
        for _, one, number, _, other, time in order:
            found.note(
                "split",
                f"{self.describe(one, number)}: expected a time before that user's first of "
                f"{SPLITS[other]}, {self.stored.moment(time)}, found it at or after that",
            )
        return found.check(
            "split", "by last: each user's train ends before valid, valid before test"
        )

    def _in_order_of_time(self, found: Findings) -> None:
        times = [self.stored.times(split) for split in range(len(SPLITS))]
        for one, other in ((0, 1), (1, 2), (0, 2)):
            newest, first = int(times[one].argmax()), times[other].min()
            if times[one][newest] >= first:
                user = self.who(int(self.stored.users(one)[newest]), None, times[one][newest])
                found.note(
                    "split",
                    f"{SPLITS[one]}, request {newest}: {user}: expected a time before the first "
                    f"of {SPLITS[other]}, {self.stored.moment(first)}",
                )

    def negatives(self) -> Check:
        """No sampled negative is an item that its user met, and each is of the training pool."""
        settings = self.recipe.negatives
        assert settings is not None
        before = settings.exclude == "before"
        until = "AND m.time <= b.time" if before else ""
        found = Findings()
        met = self.raw.ask(
            "SELECT b.in_split, b.number, m.time FROM beyond b JOIN (SELECT user, item, "  # noqa: S608
            f"min(time) AS time FROM rows GROUP BY user, item) m ON m.user = b.user AND "
            f"m.item = b.item {until} ORDER BY ALL LIMIT 1"
        )
        for split, number, time in met:
            when = f" at {self.stored.moment(time)}" if "time" in self.stored.keys else ""
            found.note(
                "negatives",
                f"{self.describe(split, number)}: expected a negative that the user never met"
                f"{' up to then' * before}, found an item met{when}",
            )
        strange = self._untrained("in_split, number", "beyond")
        for split, number in strange:
            found.note(
                "negatives",
                f"{self.describe(split, number)}: expected a negative from the items of the "
                "training rows, found one that none of them has",
            )
        ((total,),) = self.raw.ask("SELECT COALESCE(sum(more), 0) FROM beyond")
        ever = "up to the request" if before else "ever"
        what = f"none of {total:,} sampled is an item that its user met {ever}{self._of_training}"
        return found.check("negatives", what)

    def drawn_in_training(self) -> Check:
        """What training draws negatives from is of training, and leaves out what users met."""
        settings = self.recipe.negatives
        assert settings is not None
        pool, met = self.stored.drawn_from()
        self.raw.engine.register("pool", pool)
        self.raw.engine.register("met", met)
        late = "OR m.first > r.time" if settings.exclude == "before" else ""
        found = Findings()
        forgotten = self.raw.ask(
            "SELECT r.user, r.item, r.time FROM (SELECT user, item, min(time) AS time FROM rows "  # noqa: S608
            f"GROUP BY user, item) r LEFT JOIN met m USING (user, item) WHERE m.user IS NULL "
            f"{late} ORDER BY ALL LIMIT 1"
        )
        for user, item, time in forgotten:
            found.note(
                "drawn in training",
                f"{self.who(user, item, time)}: expected this item among those that are never "
                "drawn for this user, found it among the others",
            )
        strange = self._untrained("item", "pool WHERE weight > 0")
        for (item,) in strange:
            found.note(
                "drawn in training",
                f"{self.who(None, item, None)}: expected an item of the training rows to draw "
                "from, found one that none of them has",
            )
        what = f"{met.num_rows:,} pairs of a user and an item met are never drawn"
        what += self._of_training
        return found.check("drawn in training", what)

    @property
    def _of_training(self) -> str:
        return "; all are of training" if self.raw.begins is None else ""

    def _untrained(self, columns: str, table: str) -> list[tuple[Any, ...]]:
        """Those of some items that no training row has; none where earlier rows are gone."""
        if self.raw.begins is not None:
            return []
        trained = "SELECT item FROM rows WHERE split = 0 OR (kept AND split IS NULL)"
        return self.raw.ask(
            f"SELECT {columns} FROM (SELECT * FROM {table}) WHERE item NOT IN ({trained}) "  # noqa: S608
            "ORDER BY ALL LIMIT 1"
        )

    def exposed(self) -> list[np.ndarray]:
        """For each split, which of its examples are rows of the log: their numbers."""
        return [
            np.asarray(
                self.raw.engine.execute(
                    f"SELECT number FROM exposed WHERE split = {split} ORDER BY 1"  # noqa: S608
                ).fetchnumpy()["number"]
            )
            for split in range(len(SPLITS))
        ]
