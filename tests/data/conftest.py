"""Small raw tables, prepared, and read back as plain Python."""

import copy
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import check_shapes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finerank.data.arrow_file import read_columns
from finerank.data.batch import Jagged
from finerank.data.dataset import Dataset
from finerank.data.events import EventStore
from finerank.data.prepare import prepare
from finerank.recipe import Recipe


@dataclass
class Workshop:
    """A folder in which to write raw tables and prepare them."""

    folder: Path

    def write(self, name, rows):
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
        pq.write_table(table, self.folder / f"{name}.parquet")
        return str(self.folder / f"{name}.parquet")

    def recipe(self, settings, **tables):
        """The recipe with the given tables written and their paths filled in."""
        settings = copy.deepcopy(settings)
        for name, rows in tables.items():
            settings.setdefault(name, {})["path"] = self.write(name, rows)
        return Recipe.parse(settings)

    def prepare(self, settings, out="prepared", **tables):
        return Dataset(prepare(self.recipe(settings, **tables), self.folder / out).folder)


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)


@pytest.fixture(scope="session")
def new_workshop(tmp_path_factory):
    """For property tests, a workshop for each example."""
    return lambda: Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def of_shape(new_workshop):
    """The folder of a data set of each shape, prepared once."""
    made = {}

    def of_shape(shape):
        if shape not in made:
            made[shape] = check_shapes.prepare(new_workshop(), shape)
        return made[shape]

    return of_shape


def _rows(column):
    if isinstance(column, Jagged):
        bounds = column.offsets.tolist()
        return [column.values[a:b].tolist() for a, b in pairwise(bounds)]
    return column.tolist()


def _raw(entities, rows):
    return entities.keys.decode(rows.numpy()) if entities is not None else None


def _raw_steps(dataset, name, window):
    store, steps = dataset.stores[name], {}
    if isinstance(store, EventStore):
        steps["raw_time"] = store.time[window].tolist()
    if store.item is not None:
        steps["raw_item"] = _raw(dataset.items, store.item[window])
    return steps


@pytest.fixture(scope="session")
def read():
    """A split of a data set as a list of requests, in the raw ids, decoded where a vocabulary is.

    A request: ``user``, ``time``, ``request`` features, ``histories`` (steps with ``raw_item``,
    ``raw_time`` where they are events, and features), ``candidates`` (``item``, ``labels``,
    features). Features are as encoded where ``encoded`` is set, else ids are raw values, None
    where unknown.
    """

    def read_split(dataset, split, *, encoded=False):
        schema, examples = dataset.schema, dataset.split(split)
        times = read_columns(dataset.folder / split / "requests.arrow").get("time")
        encodings = dataset.encoder.encodings

        def shown(name, values):
            if encoded or schema.feature(name).space is None:
                return values
            decode = encodings[name].vocabulary.decode
            if schema.feature(name).type == "ids":
                return [decode(np.array(each, dtype=np.int64)) for each in values]
            return decode(np.array(values))

        def columns(batch_columns):
            return {name: shown(name, _rows(column)) for name, column in batch_columns.items()}

        import torch  # noqa: PLC0415

        found = []
        for request in range(examples.num_requests):
            batch = examples.batch(torch.tensor([request]))
            candidates = slice(*examples.first_candidate[request : request + 2].tolist())
            steps = {}
            for name, history in batch.histories.items():
                window = slice(*(int(bound[request]) for bound in examples.windows[name]))
                steps[name] = {**columns(history.columns), **_raw_steps(dataset, name, window)}
                assert history.offsets.tolist() == [0, window.stop - window.start]
            user = _raw(dataset.users, batch.user)
            features = columns(batch.candidate)
            items = _raw(dataset.items, examples.item[candidates]) if dataset.items else None
            assert batch.labels is not None
            found.append(
                {
                    "user": None if user is None else user[0],
                    "time": None if times is None else times[request].item(),
                    "request": {k: v[0] for k, v in columns(batch.request).items()},
                    "histories": steps,
                    "candidates": [
                        {
                            "item": None if items is None else items[row],
                            "labels": [None if math.isnan(x) else x for x in labels],
                            **{name: values[row] for name, values in features.items()},
                        }
                        for row, labels in enumerate(batch.labels.tolist())
                    ],
                }
            )
        return found

    return read_split
