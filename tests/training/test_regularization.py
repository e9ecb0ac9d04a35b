"""Mini-batch aware L2 against its definition, computed id by id in plain Python."""

from collections import Counter

import pytest
import torch

from finerank.data.batch import Jagged
from finerank.models.inputs import joined_tables
from finerank.models.registry import build
from finerank.settings import ModelSettings, TrainingSettings
from finerank.training.loss import WeightedSum
from finerank.training.optimizers import Optimizers
from finerank.training.regularization import MiniBatchL2, count_ids


def inputs_of(schema, batch):
    """Every (space, id) of every candidate's sample, one by one."""
    rows = {"request": batch.request_of_candidate.tolist()}
    for candidate, request in enumerate(rows["request"]):
        columns = [(f, batch.request[f.name], request) for f in schema.request_features]
        columns += [(f, batch.candidate[f.name], candidate) for f in schema.candidate_features]
        for steps in batch.histories.values():
            first, end = steps.offsets[request : request + 2].tolist()
            for name, column in steps.columns.items():
                columns += [(schema.feature(name), column, step) for step in range(first, end)]
        for feature, column, row in columns:
            if feature.space is None:
                continue
            if isinstance(column, Jagged):
                first, end = column.offsets[row : row + 2].tolist()
                yield from ((feature.space, i) for i in column.values[first:end].tolist())
            else:
                yield feature.space, int(column[row])


def gradient_of(tables):
    """The gradient of all rows ``(V, D)``."""
    rows, vectors, _ = tables.in_use
    return torch.zeros_like(tables.weight).index_copy(0, rows, vectors.grad)


@pytest.fixture(params=["flat", "items only", "one history", "steps of their own", "every type"])
def schema(request, made):
    return made.schemas[request.param]


def test_counts(made, schema):
    examples = made.examples(schema, candidates=(3, 1, 2, 4), steps=(2, 0, 5, 1))
    expected = Counter(inputs_of(schema, made.batch(examples)))
    counts = count_ids(examples)
    found = {(s, i): int(n) for s, ns in counts.items() for i, n in enumerate(ns) if n}
    assert found == expected


@pytest.mark.parametrize("name", ["din", "deepfm"])
def test_gradient(made, schema, name):
    examples = made.examples(schema, candidates=(3, 1, 2, 4), steps=(2, 0, 5, 1))
    counts = Counter(inputs_of(schema, made.batch(examples)))
    batch = examples.batch(torch.tensor([1, 3]))
    used = set(inputs_of(schema, batch))
    model = build(schema, ModelSettings(name=name, embedding_dim=2))
    tables = [each for _, each in joined_tables(model)]
    with Optimizers(model, WeightedSum([1.0]), TrainingSettings()).sparse_tables():
        model(batch).square().sum().backward()
        before = [gradient_of(each) for each in tables]
        MiniBatchL2(model, examples, strength=0.3).add_gradient()
        after = [gradient_of(each) for each in tables]
    checked = 0
    for each, one, other in zip(tables, before, after, strict=True):
        for key, table in each.items():
            space, first = key.removeprefix("of_"), each.first_row[key]
            for row in range(len(table)):
                share = 0.3 / counts[space, row] if (space, row) in used else 0.0
                expected = one[first + row] + share * table[row]
                torch.testing.assert_close(other[first + row], expected)
                checked += share > 0
    assert checked >= len(used)
