"""What is learnt from the training rows before training: vocabularies, means, widths."""

from __future__ import annotations

import sys
from functools import partial
from math import fsum, sqrt
from typing import TYPE_CHECKING

import ibis

from finerank.data.encoding import (
    Encoding,
    IdEncoding,
    IdsEncoding,
    NumberEncoding,
    VectorEncoding,
)
from finerank.data.list_columns import as_kind, step_items, step_values
from finerank.data.rows import as_id
from finerank.data.splits import TRAIN
from finerank.data.vocabulary import Buckets, Ids, Vocabulary
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finerank.data.engine import Engine
    from finerank.data.schema import Home
    from finerank.data.tables import RawTables
    from finerank.recipe import Recipe


_ROUNDING = 1e-12  # of a mean, relative; less is no variation


class Fitting:
    """Fits the encodings of a recipe's features on rows of the training period.

    A value that a user or item table holds counts once for every such row of its user or item,
    and one of a ready-made history once for every training example whose steps have it.

    Args:
        train: the training examples, and the events that may be steps of their histories.
        entities: the recipe's tables, as `select_entities` gives them.
        engine: holds all of them.
    """

    def __init__(
        self,
        train: ibis.Table,
        tables: RawTables,
        entities: Mapping[Home, ibis.Table],
        engine: Engine,
    ) -> None:
        self.train, self.tables, self.recipe = train, tables, tables.recipe
        self.examples = train.filter(train.split == TRAIN)  # whose lists are steps, too
        self.entities, self.engine = entities, engine
        self._counts: dict[Home, ibis.Table] = {}

    def encodings(self) -> dict[str, Encoding]:
        """One encoding a feature; features of one id space share their vocabulary."""
        recipe, vocabularies = self.recipe, self.vocabularies()
        return {name: self._encoding(name, recipe, vocabularies) for name in recipe.features}

    def vocabularies(self) -> dict[str, Ids]:
        """One vocabulary an id space."""
        spaces: dict[str, list[str]] = {}
        for name, feature in self.recipe.features.items():
            if feature.type in ("id", "ids"):
                spaces.setdefault(self.recipe.space_of(name), []).append(name)
        return {space: self._vocabulary(space, names) for space, names in spaces.items()}

    def _encoding(self, name: str, recipe: Recipe, vocabularies: dict[str, Ids]) -> Encoding:
        feature, where = recipe.features[name], f"features.{name}"
        if feature.type == "id":
            return IdEncoding(vocabularies[recipe.space_of(name)])
        if feature.type == "ids":
            return IdsEncoding(vocabularies[recipe.space_of(name)], feature.separator)
        if recipe.only_listed(name):
            return self._number(name)
        kind = self.tables.column_type(name)
        if feature.type == "vector":
            if not kind.is_array() or not kind.value_type.is_numeric():
                raise FinerankError(where, expected="lists of numbers", found=str(kind))
            return VectorEncoding(self._width(name))
        if not kind.is_numeric() and not kind.is_boolean():
            raise FinerankError(
                where,
                expected="numbers",
                found=f"a column of type {kind}",
                fix="Say type: id, or cast it under derive.",
            )
        return self._number(name)

    def _values(self, name: str) -> ibis.Table:
        """The raw values of a feature's column over the training rows: ``value``, how often ``n``.

        A value may come several times; its counts add up.
        """
        home = self.tables.home_of(name)
        if home == "log":
            return self.train.select(
                value=self.train[f"feature.{name}"], n=ibis.literal(1, "int64")
            )
        counts = self._rows_of(home)
        for steps in step_items(self.examples, self.recipe, name, self.engine):
            ids = steps.mutate(value=as_id(steps.value, "log.item"))
            ids = as_kind(ids, counts.entity.type())
            counts = counts.union(ids.select(entity=ids.value, n=ids.n))
        if self.tables.raw_column(name) == self.recipe.entities[home].key:
            return counts.select(value=counts.entity, n=counts.n)  # the log's, in the table or not
        table = self.entities[home]
        entities = table.select("key", value=table[f"feature.{name}"])
        return counts.join(entities, counts.entity == entities.key).select("value", "n")

    def _rows_of(self, home: Home) -> ibis.Table:
        """How many training rows are of each user or item, counted once for all its features."""
        if home not in self._counts:
            side = self.train["user" if home == "users" else "item"]
            counts = self.train.group_by(entity=side).agg(n=ibis._.count())
            self._counts[home] = self.engine.keep(f"rows_of_{home}", counts)
        return self._counts[home]

    def _ids(self, name: str) -> ibis.Table:
        """As `_values` gives them, one id a row."""
        values = self._values(name).filter(ibis._.value.notnull())
        feature, kind = self.recipe.features[name], values.value.type()
        where = f"features.{name}"
        if feature.type == "ids":
            if not (kind.is_array() if feature.separator is None else kind.is_string()):
                beside = "without" if feature.separator is None else "beside"
                raise FinerankError(
                    where,
                    expected="a list column, or text and a separator",
                    found=f"a column of type {kind} {beside} a separator",
                )
            values = self.engine.per_row(values, partial(_elements, feature.separator))
            values = values.mutate(value=as_id(values.value, where))
            values = values.filter(values.value.notnull())
        elif kind.is_array():
            raise FinerankError(where, expected="one id a row", found="lists", fix="Say type: ids.")
        return values.select("value", "n")

    def _vocabulary(self, space: str, features: list[str]) -> Ids:
        parts = [self._ids(name) for name in features if not self.recipe.only_listed(name)]
        for name in features:
            for where, steps in step_values(self.examples, self.recipe, name, self.engine):
                ids = steps.mutate(value=as_id(steps.value, where))
                parts.append(as_kind(ids, parts[0].value.type()) if parts else ids)
        kinds = {str(part.value.type().copy(nullable=True)) for part in parts}
        if len(kinds) > 1:
            raise FinerankError(
                f"features {', '.join(features)}",
                expected=f"one type of id in the space {space}",
                found=" and ".join(sorted(kinds)),
                fix="Cast one of them under derive.",
            )
        settings = [self.recipe.features[name] for name in features]
        buckets = {each.buckets for each in settings}
        if len(buckets) > 1:
            raise FinerankError(
                f"features {', '.join(features)}",
                expected=f"the same buckets for all features of the space {space}",
                found=", ".join(str(each.buckets or "none") for each in settings),
            )
        if (count := buckets.pop()) is not None:
            return Buckets(count)
        min_count = max(each.min_count for each in settings)
        sizes = [each.max_size for each in settings if each.max_size is not None]
        joined = parts[0] if len(parts) == 1 else ibis.union(*parts)
        counts = joined.group_by("value").agg(n=ibis._.n.sum()).filter(ibis._.n >= min_count)
        ordered = counts.order_by(ibis.desc("n"), "value").select("value")
        ordered = ordered.limit(min(sizes) if sizes else None).to_pyarrow()
        return Vocabulary(ordered["value"].combine_chunks())

    def _number(self, name: str) -> NumberEncoding:
        parts = [] if self.recipe.only_listed(name) else [self._values(name)]
        parts += [steps for _, steps in step_values(self.examples, self.recipe, name, self.engine)]
        parts = [part.select(ibis._.value.cast("float64").name("value"), "n") for part in parts]
        values = parts[0] if len(parts) == 1 else ibis.union(*parts)
        # NaN is more than any number
        finite = values.filter(values.value.abs() <= sys.float_info.max)
        counted = finite.group_by("value").agg(n=ibis._.n.sum().cast("float64"))
        count = counted.n.sum().to_pyarrow().as_py()
        if not count:
            return NumberEncoding(mean=0.0, std=1.0)
        # fsum rounds once, at the end, so that the order of the rows has no influence
        mean = fsum(n * value for value, n in _pairs(counted)) / count
        std = sqrt(fsum(n * (value - mean) ** 2 for value, n in _pairs(counted)) / count)
        varies = std > _ROUNDING * abs(mean)
        return NumberEncoding(mean=mean, std=std if varies else 1.0)

    def _width(self, name: str) -> int:
        values = self._values(name).filter(ibis._.value.notnull())
        length = values.value.length()
        least, most = (
            values.agg(least=length.min(), most=length.max()).to_pyarrow().to_pylist()[0].values()
        )
        if least is None or least != most or least == 0:
            found = "none" if least is None else f"widths from {least} to {most}"
            raise FinerankError(f"features.{name}", expected="vectors of one width", found=found)
        return int(least)


def _elements(separator: str | None, values: ibis.Table) -> ibis.Table:
    """The values of lists, or of texts with a separator, one a row; no blank texts."""
    value = values.value if separator is None else values.value.split(separator)
    values = values.select("n", value=value.unnest())
    if values.value.type().is_string():
        values = values.mutate(value=values.value.strip())
        values = values.filter(values.value != "")
    return values


def _pairs(counted: ibis.Table) -> Iterator[tuple[float, float]]:
    """Values and counts, never all of them in memory."""
    for piece in counted.select("value", "n").to_pyarrow_batches():
        yield from zip(*(column.to_pylist() for column in piece.columns), strict=True)
