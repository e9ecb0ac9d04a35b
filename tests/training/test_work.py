"""What a training step does, counted: no clock, so that a change that doubles it shows anywhere."""

from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from finerank.data.batch import Batch, Steps
from finerank.data.schema import Feature, History, Schema
from finerank.models.registry import build
from finerank.nn import compiled_linear, joined, lookups
from finerank.nn.kernels import library
from finerank.nn.pair_linear import pair_linear
from finerank.nn.pairs import pairs_of
from finerank.settings import ModelSettings, TrainingSettings
from finerank.training.loss import WeightedSum, task_losses
from finerank.training.optimizers import Optimizers

REQUESTS, CANDIDATES, STEPS, COLUMNS = 64, 3, 9, 12


PRODUCTS = {  # of matrices, and which argument's last dimension is summed over
    torch.ops.aten.mm: 0,
    torch.ops.aten.bmm: 0,
    torch.ops.aten.addmm: 1,
    torch.ops.aten.addmm_: 1,
    torch.ops.aten.baddbmm: 1,
}


class Work(NamedTuple):
    """Of one step: operations, MB that they write, MFLOP of matrix products, rows updated."""

    operations: int
    written_mb: float
    mega_flops: float
    rows: int


class Counter(TorchDispatchMode):
    """Counts the operations that write, and what they write."""

    def __init__(self):
        super().__init__()
        self.operations, self.written, self.rows, self.flops = 0, 0, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.is_view or func.overloadpacket is torch.ops.aten.detach:
            return result
        self.operations += 1
        if func.overloadpacket in PRODUCTS:
            self.flops += 2 * result.numel() * args[PRODUCTS[func.overloadpacket]].shape[-1]
        if func.overloadpacket is torch.ops.aten.index_copy_:  # a part of a table and its moments
            self.rows += args[2].numel()
            self.written += args[3].nbytes
        elif func.overloadpacket is torch.ops.aten.index_fill_:  # when each row was last used
            self.written += args[2].numel() * args[0].itemsize
        elif func.overloadpacket is torch.ops.aten.scatter_:  # a part of a table of places
            self.written += args[3].nbytes
        else:
            outputs = result if isinstance(result, tuple | list) else [result]
            self.written += sum(each.nbytes for each in outputs if isinstance(each, torch.Tensor))
        return result


def schema(name: str, size: int) -> Schema:
    """Of a shop with histories, or of a flat table; id spaces of ``size`` rows."""
    if name == "din":
        features = (
            Feature("user", "user", "id", "log", "user", size, "user"),
            Feature("item", "item", "id", "log", "item", size, "item"),
        )
        return Schema(features, (History("clicked", ("item",), max_length=STEPS),), ("click",))
    features = [
        Feature(f"c{i}", "context", "id", "log", f"c{i}", size, f"c{i}") for i in range(COLUMNS)
    ]
    numbers = [Feature(f"n{i}", "context", "number", "log", f"n{i}", 1) for i in range(3)]
    return Schema((*features, *numbers), (), ("click",) if name == "dcn" else ("click", "order"))


def batch(schema: Schema) -> Batch:
    """The same ids, whatever the size of their spaces."""
    random = torch.Generator().manual_seed(0)

    def column(feature, rows):
        if feature.type == "number":
            return torch.randn(rows, generator=random)
        return torch.randint(0, 100, (rows,), generator=random, dtype=torch.int32)

    count = REQUESTS * (CANDIDATES if schema.histories else 1)
    steps = torch.arange(0, REQUESTS * STEPS + 1, STEPS)
    return Batch(
        request={f.name: column(f, REQUESTS) for f in schema.request_features},
        candidate={f.name: column(f, count) for f in schema.candidate_features},
        histories={
            h.name: Steps({"item": column(schema.feature("item"), REQUESTS * STEPS)}, steps)
            for h in schema.histories
        },
        request_of_candidate=torch.arange(REQUESTS).repeat_interleave(count // REQUESTS),
        labels=torch.ones(count, len(schema.tasks)),
        user=torch.zeros(REQUESTS, dtype=torch.int32),
    )


OPTIONS = {
    "din": {"embedding_dim": 8, "hidden_units": [16], "attention_hidden_units": [16, 8]},
    "dcn": {"embedding_dim": 8, "hidden_units": [16], "num_cross_layers": 3},
    "mmoe": {"embedding_dim": 8, "num_experts": 4, "expert_units": [16], "tower_units": [8]},
}


def work_of(name: str, size: int) -> Work:
    """Of a step that is not the first."""
    made = schema(name, size)
    model, each = build(made, ModelSettings(name=name, **OPTIONS[name])), batch(made)
    weighting = WeightedSum([1.0] * len(made.tasks))
    optimizers = Optimizers(model, weighting, TrainingSettings())

    def step():
        loss = weighting(task_losses(model(each), each.labels))
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()

    model.train()
    with optimizers.sparse_tables():
        step()
        with Counter() as counter:
            step()
        rows = len(model.inputs.tables.in_use[0])
    if not library.is_there():
        assert counter.rows == 2 * rows  # the vectors, and their moments, each row once
    return Work(counter.operations, counter.written / 1e6, counter.flops / 1e6, rows)


# Measured. A step may do a tenth more before somebody has to look. In each Dice some thirty
# operations and half a megabyte are passes over a part of the rows that lies in the cache.
EXPECTED = {
    "din": Work(284, 5.07, 3.69, 144),
    "dcn": Work(148, 0.859, 0.79, 553),
    "mmoe": Work(114, 0.813, 2.97, 553),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_step_does_no_more_than_it_did(name, monkeypatch):
    monkeypatch.setattr(library, "is_there", lambda: False)
    check(work_of(name, size=100), EXPECTED[name])


# The same where functions are compiled, each of them called so often: what they do is not counted.
ROWS = ("rows_in_use", "gather", "catch_up", "adam_step")
ATTENTION = (
    *("first", "next", "last", "sum"),
    *("sum_gradient", "last_gradient", "next_gradient", "first_gradient"),
)
COMPILED = {
    "din": (Work(261, 1.06, 0.952, 144), (*ROWS, *ATTENTION)),
    "dcn": (Work(91, 0.375, 0.672, 553), (*ROWS, "cross_forward", "cross_backward")),
    "mmoe": (Work(82, 0.444, 2.97, 553), (*ROWS, "mixture_forward", "mixture_backward")),
}


@pytest.mark.skipif(not library.is_there(), reason="no functions are compiled for this machine")
@pytest.mark.parametrize("name", COMPILED)
def test_a_step_with_compiled_functions_does_no_more_than_it_did(name, monkeypatch):
    calls, call = [], library.call
    monkeypatch.setattr(library, "call", lambda *given: calls.append(given[0]) or call(*given))
    expected, functions = COMPILED[name]
    check(work_of(name, size=100), expected)
    assert sorted(calls) == sorted(2 * functions)


@pytest.mark.skipif(not library.is_there(), reason="no functions are compiled for this machine")
def test_wide_experts_are_compiled(monkeypatch):
    """Their first layer is looked up, once for them and once for the gates."""
    monkeypatch.setattr(joined, "_WORTH", 0)
    monkeypatch.setattr(lookups, "_ROWS_OF_AN_ID", 1)
    monkeypatch.setattr(compiled_linear, "_WORTH", 0)
    monkeypatch.setattr(compiled_linear, "is_faster", lambda: False)
    calls, call = [], library.call
    monkeypatch.setattr(library, "call", lambda *given: calls.append(given[0]) or call(*given))
    wide = {"embedding_dim": 8, "num_experts": 4, "expert_units": [32, 16], "tower_units": [16]}
    monkeypatch.setitem(OPTIONS, "mmoe", wide)
    check(work_of("mmoe", size=100), Work(114, 0.652, 0.221, 553))
    maps = ["lookups_forward", "lookups_backward", "members_forward", "members_backward"]
    mixture = ["mixture_forward", "mixture_backward"]
    assert sorted(calls) == sorted(2 * [*ROWS, "different", *maps, *maps, *mixture])


def check(found: Work, expected: Work) -> None:
    for what, much, most in zip(Work._fields, found, expected, strict=True):
        assert 0.8 * most <= much <= 1.1 * most, f"{what}: {found}"


@pytest.mark.parametrize("name", EXPECTED)
def test_a_step_does_the_same_however_large_the_tables(name):
    assert work_of(name, size=100) == work_of(name, size=10_000)


def test_a_pair_takes_one_product_forward_and_two_backward(monkeypatch):
    monkeypatch.setattr(library, "is_there", lambda: False)
    count, steps, dim, width = 64, 50, 32, 16
    shapes = (count, dim), (count * steps, dim), (width, 3 * dim), (width,)
    given = [torch.randn(shape, requires_grad=True) for shape in shapes]
    pairs = pairs_of(torch.arange(0, count * steps + 1, steps), torch.arange(count))
    with Counter() as counter:
        pair_linear(*given, pairs).sum().backward()
    of_pairs = 3 * 2 * count * steps * 2 * dim * width  # with the step and with the product
    assert of_pairs < counter.flops < 1.05 * of_pairs
