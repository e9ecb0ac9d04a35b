"""Sums over pairs against the plain composition that autograd differentiates."""

from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck

from finerank.nn import long_pairs
from finerank.nn import pair_linear as linear_module
from finerank.nn.jagged import pair_steps
from finerank.nn.pair_linear import pair_linear
from finerank.nn.pairs import pairs_of, weighted_steps

DIM, STEP_DIM, HIDDEN = 2, 3, 4


@pytest.fixture(params=[1, 8, 2**20], autouse=True)
def _part(request, monkeypatch):
    """All pairs at once, or candidate by candidate, or something between."""
    monkeypatch.setattr(linear_module, "_PART", request.param)


@pytest.fixture(params=["several a request", "one a request", "one a request, swapped"])
def case(request, histories):
    """Where histories begin and end, and the request of each candidate."""
    if request.param == "several a request":
        return histories
    order = torch.arange(4) if request.param == "one a request" else torch.tensor([1, 0, 2, 3])
    return histories._replace(request_of_candidate=order)


def leaves(case):
    shapes = {
        "candidate": (len(case.request_of_candidate), DIM),
        "values": (case.num_steps, STEP_DIM),
        "weight": (HIDDEN, DIM + STEP_DIM + DIM),
        "bias": (HIDDEN,),
    }
    return {
        name: torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for name, shape in shapes.items()
    }


def test_steps_are_not_copied_where_each_request_has_one_candidate(histories):
    offsets = histories.offsets
    assert pairs_of(offsets, torch.arange(4)).step is None
    assert pairs_of(offsets, torch.tensor([0, 1, 3, 2])).step is not None
    assert pairs_of(offsets, torch.tensor([0, 1, 2])).step is not None


def test_pair_linear(case):
    given = leaves(case)
    steps, offsets = pair_steps(case.offsets, case.request_of_candidate)
    candidates = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    c, h = given["candidate"][candidates], given["values"][steps]
    expected = torch.cat([c, h, c * h[:, :DIM]], dim=1) @ given["weight"].t() + given["bias"]
    pairs = pairs_of(case.offsets, case.request_of_candidate)
    torch.testing.assert_close(pair_linear(*given.values(), pairs), expected)
    assert gradcheck(lambda *each: pair_linear(*each, pairs), tuple(given.values()))
    without_bias = {**given, "bias": None}
    expected = expected - given["bias"]
    torch.testing.assert_close(pair_linear(*without_bias.values(), pairs), expected)


@pytest.fixture
def long(monkeypatch):
    """Three steps are a long history, and two candidates are worked on together."""
    monkeypatch.setattr(linear_module, "_LONG", 3)
    monkeypatch.setattr(long_pairs, "_BLOCK", 2)


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize(
    ("lengths", "own"),
    [
        ([3] * 5, 5),
        ([0, 4, 1, 3, 3, 3], 3),
        ([0, 0, 4], 1),
        ([3, 2], 0),
        ([5, 5, 3], 0),
        ([3, 3, 0], 0),
        ([0], 0),
    ],
)
@pytest.mark.parametrize("step_dim", [DIM, STEP_DIM])
def test_pair_linear_of_long_histories_of_one_length(lengths, own, step_dim, monkeypatch):
    by_matrices = []
    first_long = linear_module._first_long

    def noted(pairs):
        by_matrices.append(len(lengths) - first_long(pairs))
        return first_long(pairs)

    monkeypatch.setattr(linear_module, "_first_long", noted)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    c, h, weight, bias = given = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in [
            (len(lengths), DIM),
            (sum(lengths), step_dim),
            (HIDDEN, 2 * DIM + step_dim),
            (HIDDEN,),
        ]
    ]
    pairs = pairs_of(offsets, torch.arange(len(lengths)))
    c = c.repeat_interleave(torch.tensor(lengths), dim=0)
    expected = torch.cat([c, h, c * h[:, :DIM]], dim=1) @ weight.t()
    torch.testing.assert_close(pair_linear(*given, pairs), expected + bias)
    torch.testing.assert_close(pair_linear(*given[:3], None, pairs), expected)
    assert gradcheck(lambda *each: pair_linear(*each, pairs), tuple(given))
    assert by_matrices[0] == own


@pytest.mark.usefixtures("long")
def test_short_products_are_not_made_with_matrices_of_candidates():
    offsets = torch.tensor([0, 64, 128])
    values = torch.randn(128, 128, requires_grad=True)
    given = torch.randn(2, 128), values, torch.randn(80, 384), torch.randn(80)
    pairs = pairs_of(offsets, torch.arange(2))
    assert "LongPairLinear" in pair_linear(*given, pairs).grad_fn.name()
    with torch.autocast("cpu", torch.bfloat16):
        assert "LongPairLinear" not in pair_linear(*given, pairs).grad_fn.name()


def test_weighted_steps(case):
    values = leaves(case)["values"]
    steps, offsets = pair_steps(case.offsets, case.request_of_candidate)
    weights = torch.randn(len(steps), dtype=torch.float64, requires_grad=True)
    pairs = pairs_of(case.offsets, case.request_of_candidate)
    found = weighted_steps(weights, values, pairs)
    for candidate, (start, end) in enumerate(pairwise(offsets)):
        expected = weights[start:end] @ values[steps[start:end]]
        torch.testing.assert_close(found[candidate], expected)
    assert gradcheck(lambda *each: weighted_steps(*each, pairs), (weights, values))
