"""What the columns seem to mean: the ids, the time, the keys, the tasks and the features."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from finerank.draft.features import Settings, side_of, type_of, why_no_input

if TYPE_CHECKING:
    from collections.abc import Iterable

    from finerank.draft.columns import Column, Table

_MAX_EVENTS = 20  # of a column that names them

_USER, _ITEM, _LABEL, _RATING, _EVENT, _SHOWN, _TITLE = (
    names.split()
    for names in (
        "userid user uid visitorid visitor customerid customer memberid member reviewerid buyerid "
        "accountid deviceid sessionid",
        "itemid item iid skuid sku productid product goodsid goods movieid movie videoid video "
        "articleid article newsid news bookid book songid song trackid track adid ad creativeid "
        "docid asin isbn listingid businessid poiid noteid photoid postid gameid appid app",
        "click clicked like liked cart carted order ordered purchase purchased buy bought "
        "conversion converted label target favorite favourite fav follow share forward comment "
        "subscribe install",
        "rating ratings stars overall reviewscore userrating",
        "event eventtype eventname action actiontype behavior behaviour behaviortype "
        "behaviourtype interaction interactiontype",
        "view pageview impression show shown expose exposure display pv",
        "title name headline itemname productname movietitle username",
    )
)
_IDS = {"user": _USER, "item": _ITEM}


class Guesses:
    """What a log and its tables seem to hold."""

    def __init__(self, tables: dict[str, Table]) -> None:
        self.tables, self.log = tables, tables["log"]
        self.used: set[str] = set()  # columns of the log that have a role
        self.tasks: dict[str, tuple[str, str]] = {}  # label and why
        self.conditions: dict[str, str] = {}  # task -> that its label is 1
        self.features: dict[str, tuple[Settings, str]] = {}  # and why
        self.maybe_labels: dict[str, tuple[Settings, str]] = {}
        self.left_out: dict[str, list[str]] = {}  # reason -> columns
        times = [c for c in self.free() if c.values > 1 and c.is_time]
        self.time = self._use(max(times, key=lambda c: c.values, default=None))
        self.own = {side: self._use(self._own(side)) for side in _IDS}
        self._guess_tasks()
        self.keys = {side: self._key(side) for side in _IDS}
        self.titles = {side: self._title(side) for side in _IDS}
        self._guess_features()

    def free(self) -> list[Column]:
        """The columns of the log without a role."""
        return [c for c in self.log.columns.values() if c.name not in self.used]

    def _use(self, column: Column | None) -> Column | None:
        self.used |= {column.name} if column else set()
        return column

    def _own(self, side: str) -> Column | None:
        """The log's user or item column: by its name, else by the ids of the given table."""
        ids, table = [c for c in self.free() if c.is_id], self._table(side)
        named = _first_named(ids, _IDS[side])
        if named or table is None:
            return named
        keys = [key.name for key in table.unique]
        ids.sort(key=lambda c: (c.name not in keys, -c.values))
        held = (c for c in ids for key in keys if self.log.share_in(c.name, table, key) == 1)
        return next(held, None)

    def _table(self, side: str) -> Table | None:
        return self.tables.get(f"{side}s")

    def _key(self, side: str) -> Column | None:
        own, table = self.own[side], self._table(side)
        if own is None or table is None:
            return None
        if own.name in table.columns:
            return table.columns[own.name]
        names = (*_IDS[side], own.joined, "id")
        named = (c for c in table.unique if c.joined in names)
        shared = (c for c in table.unique if self.log.share_in(own.name, table, c.name) >= 0.9)  # noqa: PLR2004
        return next(named, None) or next(shared, None)

    def _title(self, side: str) -> Column | None:
        columns = table.columns.values() if (table := self._table(side)) else ()
        return _first_named((c for c in columns if c.kind == "text"), _TITLE)

    def _guess_tasks(self) -> None:
        for column in self.free():
            sql, is_number = self.log.sql(column.name), column.kind in ("int", "float")
            if column.joined in _RATING and is_number and column.is_binary:
                self._add_task(column, column.name, f"{sql} = 1", column.evidence)
            elif column.joined in _RATING and is_number and column.values > 1:
                least = 4 if column.high == 5 else column.high * 0.8  # noqa: PLR2004
                self._add_task(column, "like", f"{sql} >= {least:g}", column.evidence)
            elif column.named(_LABEL) and column.kind == "bool" and column.is_binary:
                self._add_task(column, column.name, sql, "false and true")
            elif column.named(_LABEL) and column.is_binary:
                self._add_task(column, column.name, sql, "0 and 1", f"{sql} = 1")
            elif column.joined in _EVENT and column.kind == "text":
                self._add_events(column)

    def _add_events(self, column: Column) -> None:
        if not 1 < column.values <= _MAX_EVENTS:
            return
        events = self.log.examples(column.name)
        wanted = [e for e in events if e.lower() not in _SHOWN] or events
        shown = [e for e in events if e not in wanted]
        note = f"; {', '.join(shown)} only shows it" if shown else ""
        for event in wanted:
            text = event.replace("'", "''")
            sql = f"{self.log.sql(column.name)} = '{text}'"
            self._add_task(column, event, sql, column.evidence + note)

    def _add_task(
        self, column: Column, name: str, label: str, comment: str, where: str = ""
    ) -> None:
        self._use(column)
        name = unused(as_name(name), self.tasks)
        self.tasks[name], self.conditions[name] = (label, comment), where or label

    def _guess_features(self) -> None:
        for side, own in self.own.items():
            if own is not None:
                self._add_feature(own.name, {"side": side, "type": "id"}, own.evidence)
            for column in self._others(side):
                self._judge(column, side, self.tables[f"{side}s"])
        depending = {side: self.log.depending_on(own.name) for side, own in self.own.items() if own}
        for column in self.free():
            side, why = side_of(column, depending)
            reason = why_no_input(column)
            if column.joined in (*_LABEL, *_RATING):
                reason = f"named like a label, but {column.evidence}"
            if column.name in [c.name for c in self._others(side)]:
                reason = f"in {side}s too"
            if reason is not None:
                self.left_out.setdefault(reason, []).append(column.name)
            else:
                self._judge(column, side, self.log, why)

    def _others(self, side: str) -> list[Column]:
        """The columns of the users or items, where they are used, without key and title."""
        key = self.keys.get(side)
        columns = self.tables[f"{side}s"].columns.values() if key else ()
        return [c for c in columns if c not in (key, self.titles[side])]

    def _judge(self, column: Column, side: str, table: Table, why: str = "") -> None:
        settings, reason = type_of(column, table)
        if settings is None:
            home = "" if table is self.log else f" ({table.home})"
            self.left_out.setdefault(reason, []).append(column.name + home)
        elif not self.tasks and table is self.log and column.values == 2:  # noqa: PLR2004
            texts = ", ".join(str(value) for value in table.examples(column.name))
            self.maybe_labels[column.name] = ({"side": side, **settings}, f"2 values: {texts}")
        else:
            comment = f"{reason}; {why}" if why else reason
            self._add_feature(column.name, {"side": side, **settings}, comment)

    def _add_feature(self, column: str, settings: Settings, comment: str) -> None:
        name = as_name(column)
        if name in self.features:
            name = unused(f"{settings['side']}_{name}", self.features)
        if name != column:
            settings = {**settings, "column": column}
        self.features[name] = (settings, comment)


def _first_named(columns: Iterable[Column], names: list[str]) -> Column | None:
    found = [c for c in columns if c.joined in names]
    return min(found, key=lambda c: names.index(c.joined), default=None)


def as_name(text: str) -> str:
    """A name that a recipe allows, as near to the text as can be."""
    return re.sub(r"[^\w-]+", "_", text).strip("_-") or "column"


def unused(name: str, taken: Iterable[str]) -> str:
    """The name, with a number where it is taken."""
    known = {each.lower() for each in taken}
    names = (name, *(f"{name}_{number}" for number in range(2, len(known) + 3)))
    return next(each for each in names if each.lower() not in known)
