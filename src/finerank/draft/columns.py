"""What the columns of a table look like: statistics of its first rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import ibis

from finerank.data.files import open_table
from finerank.data.rows import as_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ibis.backends.duckdb import Backend

MAX_ROWS = 2_000_000  # looked at, the first of each table
SEPARATORS = ("|", ";", ",", " ")

Kind = Literal["int", "float", "bool", "text", "time", "list", "other"]

_TIME = {
    *("timestamp", "ts", "time", "datetime", "date", "epoch", "unixtime", "unixtimestamp"),
    *("eventtime", "requesttime", "clicktime", "created", "createdat", "createtime"),
}
_UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}


@dataclass(frozen=True)
class Column:
    """What the first rows of a table say of a column."""

    name: str
    kind: Kind
    type: str
    rows: int
    present: int  # not null
    values: int = 0  # distinct
    low: Any = 0
    high: Any = 0
    whole: bool = False  # numbers without fraction
    length: float = 0.0  # letters of a text, on average
    times: int = 0  # texts that read as a time
    separated: Sequence[int] = ()  # texts with each of the separators
    least: int = 0  # elements of a list
    most: int = 0
    element: Kind = "other"  # of a list

    @property
    def words(self) -> list[str]:
        """The words of its name: ``userId`` and ``user_id`` are ``user`` and ``id``."""
        return _words(self.name)

    @property
    def joined(self) -> str:
        """Its name in one word."""
        return "".join(self.words)

    def named(self, words: Iterable[str]) -> bool:
        """Whether one of these is a word of its name."""
        return not set(words).isdisjoint(self.words)

    @property
    def is_id(self) -> bool:
        """Whether it can hold ids."""
        return self.values > 1 and (self.kind in ("int", "text") or self.whole)

    @property
    def is_binary(self) -> bool:
        """Whether it holds 0 and 1, or false and true."""
        zero_one = self.whole and (self.low, self.high) == (0, 1)
        return self.values == 2 and (zero_one or self.kind == "bool")  # noqa: PLR2004

    @property
    def is_time(self) -> bool:
        """Whether it holds times, by its type, or by its name and values."""
        if self.kind == "text":
            return 0 < self.times == self.present
        if self.kind not in ("int", "float"):
            return self.kind == "time"
        named = self.named(_TIME) or self.words[-1:] in (["s"], ["ms"], ["us"], ["ns"])
        return self.joined in _TIME or bool(named and self.since_1970)

    @property
    def since_1970(self) -> str:
        """The unit and the days of numbers that look like times since 1970."""
        for unit, second in _UNITS.items():
            if self.whole and 1e8 * second <= self.low <= self.high < 1e11 * second:
                ends = (self.low / second, self.high / second)
                first, last = (datetime.fromtimestamp(end, UTC).date() for end in ends)
                return f"{unit} since 1970, {first} to {last}"
        return ""

    @property
    def evidence(self) -> str:
        """How many values it has and which, for a comment."""
        text = counted(self.values, "value")
        if self.kind in ("int", "float") and self.values:
            text += f", {self.low:.6g} to {self.high:.6g}"
        if self.present < self.rows:
            text += f", {1 - self.present / self.rows:.0%} null"
        return text


class Table:
    """The first rows of a table, and what its columns hold."""

    def __init__(self, engine: Backend, home: str, path: str) -> None:
        self.home, self.path = home, path
        raw = open_table(engine, path, home).limit(MAX_ROWS)
        floats = [name for name in raw.columns if raw[name].type().is_floating()]
        rows = raw.mutate(**{name: raw[name].isnan().ifelse(None, raw[name]) for name in floats})
        self._data = engine.create_table(f"first_rows_of_{home}", rows)
        self.rows: int = _answer(self._data.count())
        self.columns = {name: self._column(name) for name in self._data.columns}
        query = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
        self._reserved = {row[0] for row in engine.raw_sql(query).fetchall()}

    def _column(self, name: str) -> Column:
        type_ = self._data[name].type()
        asked = _statistics(name, self._data[name])
        found = self._data.agg(**asked).to_pyarrow().to_pylist()[0]
        known: dict[str, Any] = {
            key: float(value) if isinstance(value, Decimal) else value
            for key, value in found.items()
            if value is not None
        }
        if type_.is_array():
            known["element"] = _kind(type_.value_type)
        return Column(name, _kind(type_), str(type_), self.rows, **known)

    @property
    def unique(self) -> list[Column]:
        """The columns that can be its key."""
        return [c for c in self.columns.values() if c.is_id and c.values == c.rows]

    def sql(self, column: str) -> str:
        """A column's name in SQL, quoted where it must be."""
        if re.fullmatch(r"[A-Za-z_]\w*", column, re.ASCII) and column.lower() not in self._reserved:
            return column
        return '"' + column.replace('"', '""') + '"'

    def examples(self, column: str) -> list[Any]:
        """The values of a column, the most frequent first."""
        counts = self._data.group_by(value=self._data[column]).agg(n=ibis._.count())
        counts = counts.filter(counts.value.notnull()).order_by(ibis.desc("n"), "value")
        return counts.to_pyarrow()["value"].to_pylist()

    def reads_as_numbers(self, column: str) -> bool:
        """Whether nearly all the values of a text column do."""
        texts = self._data.select(text=self._data[column]).distinct().text
        return bool(_answer(texts.try_cast("float64").count() > 0.9 * texts.count()))

    def pieces(self, column: str, separator: str) -> int:
        """How many different texts a column holds with this between them."""
        texts = self._data.select(text=self._data[column]).distinct().text
        pieces = texts.split(separator).unnest().strip().name("piece").as_table()
        return int(_answer(pieces.piece.nunique()))

    def share_in(self, column: str, other: Table, key: str) -> float:
        """The share of the ids of a column that the key of another table holds."""
        asked = ((self._data[column], column), (other._data[key], key))
        ids, keys = (as_id(*each).cast("string").name("id").as_table() for each in asked)
        ids, keys = (each.filter(each.id.notnull()).distinct() for each in (ids, keys))
        return _answer(ids.id.isin(keys.id).mean()) or 0.0

    def depending_on(self, key: str) -> set[str]:
        """The columns that have one value for each value of a key that repeats."""
        others = [c.name for c in self.columns.values() if c.name != key and c.kind != "other"]
        if self.rows < 2 * self.columns[key].values or not others:
            return set()
        counts = self._data.group_by(self._data[key]).agg(
            **{str(place): self._data[name].nunique() for place, name in enumerate(others)}
        )
        most = counts.agg(**{name: counts[name].max() for name in counts.columns[1:]})
        found = most.to_pyarrow().to_pylist()[0].values()
        return {name for name, values in zip(others, found, strict=True) if (values or 0) <= 1}


def _statistics(name: str, column: ibis.Column) -> dict[str, ibis.Value]:
    kind = _kind(column.type())
    asked = {"present": column.count()}
    if kind != "other":
        asked["values"] = column.nunique()
    if kind in ("int", "float", "time"):
        asked |= {"low": column.min(), "high": column.max()}
    if kind in ("int", "float"):
        asked["whole"] = (column == column.floor()).all()
    if kind == "text":
        asked["length"] = column.length().mean()
        parted = [column.count(where=column.contains(separator)) for separator in SEPARATORS]
        asked["separated"] = ibis.array(parted)
    if kind == "text" and _TIME.intersection(_words(name)):
        asked["times"] = column.try_cast("timestamp").count()
    if kind == "list":
        asked |= {"least": column.length().min(), "most": column.length().max()}
    return asked


def _kind(type_: Any) -> Kind:  # noqa: ANN401  (an ibis data type)
    tests: dict[Kind, bool] = {
        "bool": type_.is_boolean(),
        "int": type_.is_integer(),
        "float": type_.is_floating() or type_.is_decimal(),
        "text": type_.is_string(),
        "time": type_.is_timestamp() or type_.is_date(),
        "list": type_.is_array(),
    }
    return next((name for name, holds in tests.items() if holds), "other")


def _words(name: str) -> list[str]:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return [word for word in re.split(r"[\W_]+", parted.lower()) if word]


def _answer(value: ibis.Value) -> Any:  # noqa: ANN401
    return value.to_pyarrow().as_py()


def counted(number: int, noun: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
