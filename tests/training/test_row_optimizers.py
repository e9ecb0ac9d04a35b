"""Optimisers of rows against their definitions, a row and a step at a time in plain Python."""

from functools import partial
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finerank.nn.kernels import library
from finerank.nn.tables import EmbeddingTables
from finerank.training import row_optimizers
from finerank.training.row_optimizers import DeferredAdam, LazyAdam, RowwiseAdagrad

SIZE, DIM, RATE = 6, 3, 0.1
USES = st.lists(st.lists(st.integers(0, SIZE - 1), max_size=8), min_size=1, max_size=6)


def adam(rows, uses, gradient, *, lazy=False):
    """Algorithm 1 of the paper for every row, or for those in use; k counts all steps."""
    mean, square = [[[0.0] * DIM for _ in range(SIZE)] for _ in range(2)]
    for k, used in enumerate(uses, start=1):
        for row in set(used) if lazy else range(SIZE):
            for d, g in enumerate(gradient(rows[row], used.count(row))):
                mean[row][d] = 0.9 * mean[row][d] + 0.1 * g
                square[row][d] = 0.999 * square[row][d] + 0.001 * g * g
                m, v = mean[row][d] / (1 - 0.9**k), square[row][d] / (1 - 0.999**k)
                rows[row][d] -= RATE * m / (sqrt(v) + 1e-8)
    return rows


def rowwise_adagrad(rows, uses, gradient):
    sums = [0.0] * SIZE
    for used in uses:
        for row in set(used):
            of_row = gradient(rows[row], used.count(row))
            sums[row] += sum(g * g for g in of_row) / DIM
            for d, g in enumerate(of_row):
                rows[row][d] -= RATE * g / (sqrt(sums[row]) + 1e-8)
    return rows


def gradient(row, times):
    """Of the loss: half the square of what each use of a row looks up, plus its first value."""
    return [times * (value + (d == 0)) for d, value in enumerate(row)]


@pytest.mark.parametrize(
    ("kind", "reference", "tolerance"),
    [
        (LazyAdam, partial(adam, lazy=True), 1e-12),
        (RowwiseAdagrad, rowwise_adagrad, 1e-12),
        (DeferredAdam, adam, 1e-9),
    ],
)
@settings(deadline=None)
@given(uses=USES)
def test_equals_its_definition(kind, reference, tolerance, uses):
    torch.manual_seed(0)
    tables = EmbeddingTables({"one": 2, "other": SIZE - 2}, DIM, std=1.0).double()
    tables.sparse = True
    expected = torch.tensor(reference(tables.weight.tolist(), uses, gradient), dtype=torch.float64)
    optimizer = kind([tables], learning_rate=RATE)
    tables.catch_up = partial(optimizer.catch_up, 0)
    for used in uses:
        vectors, places = tables(torch.tensor(used, dtype=torch.int64))
        looked_up = vectors[places]
        (looked_up.square().sum() / 2 + looked_up[:, 0].sum()).backward()
        optimizer.step()
    optimizer.settle()
    torch.testing.assert_close(tables.weight.detach(), expected, rtol=0, atol=tolerance)


def test_lazy_adam_is_adam_where_every_step_uses_every_row():
    tables = EmbeddingTables({"all": SIZE}, DIM, std=1.0).double()
    dense = torch.nn.Parameter(tables.weight.detach().clone())
    tables.sparse = True
    lazy, adam = LazyAdam([tables], learning_rate=RATE), torch.optim.Adam([dense], lr=RATE)
    for _ in range(5):
        vectors, places = tables(torch.randperm(SIZE))
        vectors[places].cos().sum().backward()
        dense.grad = -dense.detach().sin()
        lazy.step()
        adam.step()
    torch.testing.assert_close(tables.weight, dense, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [LazyAdam, RowwiseAdagrad])
def test_rows_that_are_not_used_stay_bit_by_bit(kind):
    tables = EmbeddingTables({"all": SIZE}, DIM, std=1.0)
    tables.sparse, before = True, tables.weight.detach().clone()
    optimizer = kind([tables], learning_rate=RATE)
    for used in ([1, 1, 4], [4, 2]):
        tables(torch.tensor(used))[0].square().sum().backward()
        optimizer.step()
    moved = (tables.weight != before).any(dim=1)
    assert moved.tolist() == [False, True, True, False, True, False]


def test_deferred_adam_is_adam_over_thousands_of_steps():
    """Rows that rest for one step, for hundreds, for longer than a term counts, and for ever."""
    torch.manual_seed(0)
    size, often = 40, torch.logspace(0, -3.5, 39)
    tables = EmbeddingTables({"all": size}, DIM, std=1.0).double()
    dense = torch.nn.Parameter(tables.weight.detach().clone())
    tables.sparse = True
    deferred, adam = DeferredAdam([tables], learning_rate=0.01), torch.optim.Adam([dense], lr=0.01)
    tables.catch_up = partial(deferred.catch_up, 0)
    resting, apart = 0, 0.0
    for step in range(1, 2501):
        used = (torch.rand(39) < often).nonzero().squeeze(1)
        gradient = torch.randn(len(used), DIM).double() * 10 ** torch.linspace(-3, 0, DIM)
        vectors, places = tables(used)
        (vectors[places] * gradient).sum().backward()
        dense.grad = torch.zeros_like(dense).index_copy(0, used, gradient)
        deferred.step()
        adam.step()
        if step % 500 == 0:
            resting = max(resting, step - int(deferred._last_use[0][:39].min()))
            deferred.settle()
            apart = max(apart, (tables.weight - dense).abs().max().item())
    assert resting > deferred._latest
    assert apart < 1e-8


def test_deferred_adam_is_adam_where_a_row_rests_for_more_steps_than_there_was_room_for():
    tables = EmbeddingTables({"all": 2}, DIM, std=1.0).double()
    dense = torch.nn.Parameter(tables.weight.detach().clone())
    tables.sparse = True
    deferred, adam = DeferredAdam([tables], learning_rate=0.01), torch.optim.Adam([dense], lr=0.01)
    tables.catch_up = partial(deferred.catch_up, 0)
    for step in range(1, 2301):
        used = torch.tensor([0, 1] if step in (1, 1101, 2300) else [0])
        gradient = torch.linspace(0.1, 1, DIM).double().expand(len(used), DIM)
        vectors, places = tables(used)
        (vectors[places] * gradient).sum().backward()
        dense.grad = torch.zeros_like(dense).index_copy(0, used, gradient)
        deferred.step()
        adam.step()
    torch.testing.assert_close(tables.weight, dense, rtol=0, atol=1e-8)


def test_a_row_that_rests_moves_when_it_is_looked_up_and_where_it_is_settled():
    tables = EmbeddingTables({"all": 2}, DIM, std=1.0)
    tables.sparse = True
    optimizer = DeferredAdam([tables], learning_rate=RATE)
    tables.catch_up = partial(optimizer.catch_up, 0)
    for used in ([0, 1], [0], [0]):
        tables(torch.tensor(used))[0].square().sum().backward()
        optimizer.step()
    stored = tables.weight[1].clone()
    looked_up = tables(torch.tensor([1]))[0][0].detach().clone()
    assert (looked_up - stored).abs().min() > 0.01
    optimizer.settle()
    torch.testing.assert_close(tables.weight[1], looked_up)
    optimizer.settle()
    torch.testing.assert_close(tables.weight[1], looked_up)


@pytest.mark.skipif(not library.is_there(), reason="no functions are compiled for this machine")
@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", [LazyAdam, DeferredAdam])
@pytest.mark.parametrize("dim", [3, 16, 37])
def test_compiled_functions_do_the_same(kind, dim, threads, monkeypatch):
    """As without them in float64: rows that rest for none to all but two of 60 steps."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(row_optimizers, "_FEWEST", 4)
    found = []
    for dtype in (torch.float32, torch.float64):
        random = torch.Generator().manual_seed(0)
        tables = EmbeddingTables({"all": 40}, dim, std=1.0)
        tables.weight.data = torch.randn(40, dim, generator=random).to(dtype)
        tables.sparse = True
        optimizer = kind([tables], learning_rate=0.01)
        tables.catch_up = partial(optimizer.catch_up, 0)
        calls, call = [], library.call
        monkeypatch.setattr(library, "call", lambda *given: calls.append(given[0]) or call(*given))  # noqa: B023
        for step in range(60):
            used = torch.randint(0, 20, (30,), generator=random)
            if step in (3, 58):
                used = torch.arange(35)  # the last five are never used
            vectors, places = tables(used)
            goal = torch.randn(len(used), dim, generator=random).to(dtype)
            (vectors[places] - goal).square().sum().backward()
            optimizer.step()
        optimizer.settle()
        assert calls.count("adam_step") == (60 if dtype == torch.float32 else 0)
        deferred = kind is DeferredAdam and dtype == torch.float32
        assert calls.count("catch_up") == (60 if deferred else 0)
        monkeypatch.setattr(library, "call", call)
        states = [optimizer._moments[0], tables.weight.detach()]
        found.append([each.double() for each in states])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double, rtol=2e-4, atol=2e-6)


@pytest.mark.skipif(not library.is_there(), reason="no functions are compiled for this machine")
@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_row_that_is_not_there_is_refused(wrong):
    tables = EmbeddingTables({"all": 5}, DIM, std=1.0)
    tables.sparse = True
    with pytest.raises(IndexError, match="expected rows from 0 to 4, found"):
        tables(torch.tensor([2, wrong, 3]))
