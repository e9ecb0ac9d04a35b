"""Tables of users and items: what is needed of them, read once."""

import math
from pathlib import Path

import ibis
import pytest

from finerank.data.entity_rows import select_entities
from finerank.data.fitting import Fitting
from finerank.data.prepare import prepare
from finerank.data.tables import RawTables
from finerank.errors import FinerankError

LOG = [{"u": 1, "i": i % 3, "t": i, "liked": i % 2} for i in range(10)]
ITEMS = [
    {"key": 0.0, "name": "zero", "price": 1.5, "brand": 7.0, "more": "x"},
    {"key": 2.0, "name": None, "price": None, "brand": None, "more": "y"},
    {"key": math.nan, "name": "nobody", "price": 3.0, "brand": 8.0, "more": "z"},
]
SETTINGS = {
    "log": {"user": "u", "item": "i", "time": "t"},
    "items": {"key": "key", "title": "name", "derive": {"double": "price * 2"}},
    "features": {
        "i": {"side": "item", "type": "id"},
        "cost": {"side": "item", "type": "number", "column": "double"},
        "brand": {"side": "item", "type": "id"},
        "u": {"side": "user", "type": "id"},
    },
    "tasks": {"like": "liked"},
    "split": {"by": "time", "valid": 0.2, "test": 0.2},
}


def test_what_is_needed(workshop):
    """Ids as whole numbers, the key under the log's name too; no row without key, nothing else."""
    recipe = workshop.recipe(SETTINGS, log=LOG, items=ITEMS)
    table = select_entities(RawTables(recipe, ibis.duckdb.connect()), "items")
    assert table.order_by("key").to_pyarrow().to_pylist() == [
        {
            "key": 0,
            "feature.i": 0,
            "feature.cost": 3.0,
            "feature.brand": 7,
            "title": "zero",
        },
        {
            "key": 2,
            "feature.i": 2,
            "feature.cost": None,
            "feature.brand": None,
            "title": None,
        },
    ]


@pytest.mark.parametrize(("column", "where"), [("key", "items.key"), ("brand", "features.brand")])
def test_fractions_are_no_ids(workshop, column, where):
    recipe = workshop.recipe(SETTINGS, log=LOG, items=[{**ITEMS[0], column: 0.5}])
    tables = RawTables(recipe, ibis.duckdb.connect())
    with pytest.raises(FinerankError, match=rf"{where}: expected whole numbers .* found 0\.5"):
        select_entities(tables, "items")


def test_read_before_anything_is_fitted(workshop, monkeypatch):
    """A feature that is fitted, and the rows that are written, come from what was read."""
    recipe = workshop.recipe(SETTINGS, log=LOG, items=ITEMS)
    one = prepare(recipe, workshop.folder / "one")
    fitted = Fitting.encodings

    def without_file(self):
        Path(recipe.items.path).rename(workshop.folder / "elsewhere")
        try:
            return fitted(self)
        finally:
            (workshop.folder / "elsewhere").rename(recipe.items.path)

    monkeypatch.setattr(Fitting, "encodings", without_file)
    other = prepare(recipe, workshop.folder / "other")
    assert {**one.manifest, "seconds": 0} == {**other.manifest, "seconds": 0}
    assert one.manifest["report"]["vocabulary"]["brand"] == 1
