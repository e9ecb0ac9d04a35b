"""Sums over pairs against the plain composition that autograd differentiates."""

from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck

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
