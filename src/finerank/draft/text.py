"""The guesses as YAML, with comments that say why and what to edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from finerank.draft.columns import MAX_ROWS, counted
from finerank.draft.guesses import as_name, unused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from finerank.draft.columns import Column
    from finerank.draft.guesses import Guesses


class Text:
    """Writes a recipe from the guesses, and collects what is left to do."""

    def __init__(self, guesses: Guesses) -> None:
        self._guesses, self._todos = guesses, list[str]()

    def __str__(self) -> str:
        body = [*self._log(), *self._tables(), *self._features(), *self._tasks(), *self._rest()]
        return "\n".join([*self._head(), *body]) + "\n"

    def _head(self) -> list[str]:
        g = self._guesses
        lines = ["# A draft by finerank: what the columns seem to mean. Read it, and edit it."]
        if not g.tasks or not g.features:
            todo = "it becomes one when its tasks and features are there."
            lines.append(f"# NOT YET A VALID RECIPE: {todo}")
        if self._todos:
            lines.append(f"# To edit, marked TODO below: {'; '.join(self._todos)}.")
        elif g.tasks:
            todo = "the tasks, the side of each feature, and what is left out."
            lines.append(f"# Check above all {todo}")
        sizes = "; ".join(
            f"{home}: {'the first ' * (table.rows == MAX_ROWS)}{counted(table.rows, 'row')}"
            for home, table in g.tables.items()
        )
        return [*lines, f"# {sizes}. Relative paths start at this file's folder."]

    def _todo(self, what: str, text: str, candidates: Iterable[Column] = ()) -> str:
        self._todos.append(what)
        named = [f"{c.name} ({counted(c.values, 'value')})" for c in candidates]
        maybe = f" It may be {', '.join(named[:8])}." if named else ""
        return _comment(f"  # TODO {what}: {text}{maybe}")

    def _log(self) -> list[str]:
        g = self._guesses
        lines = ["log:", _entry("path", g.log.path)]
        ids = [c for c in g.free() if c.is_id and c.words and c.words[-1].endswith("id")]
        for side, own in g.own.items():
            if own is not None:
                lines.append(_entry(side, own.name, own.evidence))
            else:
                none = f"no column of {side} ids was found; leave it out if there is none."
                lines.append(self._todo(f"log.{side}", none, ids))
        if g.time is None:
            none = "no time was found; with user and time come histories and a split by time."
            lines.append(self._todo("log.time", none))
        elif g.time.kind == "text":
            name = unused("time" if g.time.name != "time" else "time_read", g.log.columns)
            derived = {name: f"CAST({g.log.sql(g.time.name)} AS TIMESTAMP)"}
            lines.append(_entry("derive", derived, "it is text"))
            lines.append(_entry("time", name, g.time.evidence))
        else:
            ends = f"{g.time.low} to {g.time.high}" if g.time.kind == "time" else ""
            why = ends or g.time.since_1970 or g.time.evidence
            lines.append(_entry("time", g.time.name, why))
        return lines

    def _tables(self) -> Iterable[str]:
        g = self._guesses
        for side, key in g.keys.items():
            home, own, title = f"{side}s", g.own[side], g.titles[side]
            if (table := g.tables.get(home)) is None:
                continue
            if own is None or key is None:
                none = f"no key was found, so {table.path} is not used."
                yield self._todo(f"{home}.key", none, table.unique).lstrip()
                continue
            share = g.log.share_in(own.name, table, key.name)
            yield f"{home}:"
            yield _entry("path", table.path)
            yield _entry("key", key.name, f"{key.evidence}; {share:.0%} of the log's are here")
            if key.values < key.present:
                yield self._todo(f"{home}.key", f"not unique, {counted(key.present, 'row')}.")
            if (key.kind == "text") != (own.kind == "text"):
                differ = f"{key.type} here, {own.type} in the log; cast one under derive."
                yield self._todo(f"{home}.key", differ)
            if title is not None:
                yield _entry("title", title.name)

    def _features(self) -> Iterable[str]:
        g = self._guesses
        if g.features:
            yield "features:"
            yield from (_entry(name, *feature) for name, feature in g.features.items())
        else:
            yield "features: {}"
            yield self._todo("features", "no column can be one as it is.")
        if g.maybe_labels:
            yield "  # one of these may be the label; the others may be features:"
        for name, feature in g.maybe_labels.items():
            yield "  # " + _entry(as_name(name), *feature).lstrip()
        if g.left_out:
            yield "  # left out:"
        for reason, columns in g.left_out.items():
            yield _comment(f"  #   {', '.join(columns)}: {reason}")

    def _tasks(self) -> Iterable[str]:
        g = self._guesses
        yield "tasks:"
        yield from (_entry(name, *task) for name, task in g.tasks.items())
        if not g.tasks:
            none = "no label was found. Write NAME: SQL CONDITION, such as click: event = 'click'."
            two = [c for c in g.free() if c.values == 2]  # noqa: PLR2004
            yield self._todo("tasks", none, two)

    def _rest(self) -> Iterable[str]:
        g = self._guesses
        steps = [
            name
            for name, (settings, _) in g.features.items()
            if settings["side"] == "item" and settings["type"] in ("id", "ids")
        ]
        has_history = bool(all(g.own.values()) and g.time and g.tasks and steps)
        if has_history:
            task = next((t for t in g.tasks if t.startswith("click")), next(iter(g.tasks)))
            history = {"features": steps, "where": g.conditions[task], "max_length": 50}
            yield "histories:"
            yield _entry(as_name(f"past_{task}"), history)
        by, model = "time" if g.time else "random", "din" if has_history else "dnn"
        yield f"split: {_flow({'by': by, 'valid': 0.1, 'test': 0.1})}"
        yield f"model: {_flow({'name': model})}"


def _entry(key: str, value: object, comment: str = "") -> str:
    return f"  {_flow(key)}: {_flow(value)}" + (_comment(f"  # {comment}") if comment else "")


def _flow(value: object) -> str:
    """A value in YAML, on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9
    )
    return text.removesuffix("...\n").strip()


def _comment(text: str) -> str:
    """Text that stays on its line, whatever a column's name or value holds."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
