"""Target attention by compiled functions against the same by torch, in twice the digits."""

import copy

import pytest
import torch
from torch import nn

from finerank.nn import pair_mlp, target_attention
from finerank.nn.kernels import library
from finerank.nn.pairs import pairs_of
from finerank.nn.target_attention import TargetAttention

pytestmark = pytest.mark.skipif(
    not library.is_there(), reason="no functions are compiled for this machine"
)


@pytest.fixture(params=[1, 3])
def _shares(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    monkeypatch.setattr(pair_mlp, "_FEWEST", 1)


@pytest.fixture
def served(monkeypatch):
    """Whether each forward since was by the compiled functions."""
    seen, serves = [], pair_mlp.serves

    def noted(*given):
        seen.append(serves(*given))
        return seen[-1]

    monkeypatch.setattr(target_attention, "serves", noted)
    return seen


def scattered(attention: TargetAttention) -> TargetAttention:
    """With every parameter far from where it starts."""
    for parameter in attention.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    for norm in attention.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return attention


def inputs(lengths, per_request, dim, step_dim):
    """Histories, and what `TargetAttention` takes of them."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    count = len(lengths)
    return (
        torch.randn(count * per_request, dim),
        torch.randn(sum(lengths), step_dim) + 0.5,
        offsets,
        torch.arange(count).repeat_interleave(per_request),
    )


def outcome(attention, candidate, values, *histories):
    """The sums, all gradients, and the running statistics after it."""
    dtype = attention.logit.weight.dtype
    leaves = [x.to(dtype).clone().requires_grad_() for x in (candidate, values)]
    sums = attention(*leaves, *histories)
    upstream = torch.linspace(-1, 1, sums.numel(), dtype=dtype).view_as(sums)
    wanted = [*leaves, *attention.parameters()]
    return [sums, *torch.autograd.grad(sums, wanted, upstream), *attention.buffers()]


def assert_same(found, expected):
    for each, other in zip(found, expected, strict=True):
        scale = max(1e-3, float(other.detach().abs().max())) if other.numel() else 1
        torch.testing.assert_close(each.to(other.dtype), other, rtol=0, atol=2e-5 * scale)


SHAPES = {
    "one candidate a request": ([3, 0, 70, 1, 0, 130, 9], 1, 20, 27),
    "several": ([3, 0, 70, 1, 9], 4, 20, 27),
    "narrow": ([2, 5, 0], 1, 1, 1),
    "aligned": ([40] * 6, 1, 32, 32),
    "wide": ([13, 50], 3, 200, 230),
}


@pytest.mark.usefixtures("instructions", "_shares")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", ["dice", "prelu", "relu"])
@pytest.mark.parametrize("units", [(24,), (80, 40), (7, 17, 33)])
def test_sums_and_gradients(shape, activation, units, served):
    given = inputs(*SHAPES[shape])
    attention = scattered(
        TargetAttention(
            SHAPES[shape][2], step_dim=SHAPES[shape][3], hidden_units=units, activation=activation
        )
    )
    other = copy.deepcopy(attention).double()
    assert_same(outcome(attention, *given), outcome(other, *given))
    with torch.no_grad():
        attention.eval(), other.eval()
        sums = attention(*given)
        candidate, values, *histories = given
        assert_same([sums], [other(candidate.double(), values.double(), *histories)])
    assert served == [True, False, True, False]


@pytest.mark.parametrize("per_request", [1, 3])
def test_softmax(per_request, served):
    given = inputs([3, 0, 30, 1, 9], per_request, 20, 27)
    attention = scattered(TargetAttention(20, step_dim=27, softmax=True))
    other = copy.deepcopy(attention).double()
    assert_same(outcome(attention, *given), outcome(other, *given))
    assert served == [True, False]


def test_statistics_are_exact_far_from_zero():
    """A variance by the difference of two large numbers would have no digit left."""
    candidate, values, *histories = inputs([500] * 20, 1, 8, 8)
    attention = TargetAttention(8)
    with torch.no_grad():
        attention.mlp.first.bias += 3000
    other = copy.deepcopy(attention).double()
    attention(candidate, values, *histories)
    other(candidate.double(), values.double(), *histories)
    found, expected = (
        each.mlp.finishes[0][0].normalization.running_var.double() for each in (attention, other)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_the_gate_does_not_overflow():
    candidate, values, *histories = inputs([5, 9], 1, 4, 4)
    attention = scattered(TargetAttention(4))
    for norm in attention.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_var.fill_(1e-12)
    with torch.no_grad():
        found = attention.eval()(candidate * 1e4, values * 1e4, *histories)
        expected = attention.double()(candidate.double() * 1e4, values.double() * 1e4, *histories)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


def test_results_are_the_same_each_time():
    given = inputs([30] * 40, 2, 64, 64)
    attention = scattered(TargetAttention(64))
    first = outcome(copy.deepcopy(attention), *given)
    for _ in range(5):
        found = outcome(copy.deepcopy(attention), *given)
        assert all(torch.equal(*each) for each in zip(first, found, strict=True))


@pytest.mark.parametrize("per_request", [1, 2])
def test_indices_may_be_int32(per_request, served):
    candidate, values, *histories = inputs([3, 0, 9], per_request, 8, 8)
    attention = TargetAttention(8)
    narrow = [index.to(torch.int32) for index in histories]
    expected = outcome(copy.deepcopy(attention), candidate, values, *histories)
    found = outcome(attention, candidate, values, *narrow)
    assert all(torch.equal(*each) for each in zip(found, expected, strict=True))
    assert served == [True, True]


def test_a_batch_is_counted(served):
    given = inputs([3, 4], 1, 8, 8)
    attention = TargetAttention(8)
    attention(*given)
    attention.eval()
    with torch.no_grad():
        attention(*given)
    assert served == [True, True]
    norm = attention.mlp.finishes[0][0].normalization
    assert norm.num_batches_tracked == 1


def test_under_autocast_nothing_is_short():
    given = inputs([30] * 10, 2, 64, 64)
    attention = scattered(TargetAttention(64))
    expected = outcome(copy.deepcopy(attention), *given)
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(copy.deepcopy(attention), *given)
    assert all(torch.equal(*each) for each in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"activation": "silu"}, "not compiled"),
        ({"dtype": torch.float64}, "not of float32"),
        ({"order": [1, 0]}, "candidates whose steps go back"),
        ({"lengths": [0, 0]}, "no pairs"),
        ({"lengths": [1, 0]}, "one pair, which has no variance"),
        ({"dim": 0}, "nothing to compare"),
        ({"eval": True}, "a gradient that doesn't flow through statistics"),
    ],
)
def test_what_torch_computes(change, why, served):
    dim = change.get("dim", 4)
    candidate, values, offsets, _ = inputs(change.get("lengths", [3, 2]), 1, dim, 4)
    attention = TargetAttention(dim, step_dim=4, activation=change.get("activation", "dice"))
    attention.train(not change.get("eval", False))
    dtype = change.get("dtype", torch.float32)
    order = torch.tensor(change.get("order", [0, 1]))
    sums = attention.to(dtype)(candidate.to(dtype), values.to(dtype), offsets, order)
    sums.sum().backward()
    assert served == [False], why


def test_empty_histories_at_the_ends_keep_the_order():
    pairs = pairs_of(torch.tensor([0, 0, 3, 3]), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert pair_mlp._first_steps(pairs).tolist() == [0, 0, 0, 0, 2, 2]


def test_candidates_of_a_request_stay_in_one_share(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(pair_mlp, "_FEWEST", 1)
    candidate, values, *histories = inputs([5, 7, 0, 3], 3, 4, 4)
    work = pair_mlp._work_of(candidate, values, pairs_of(*histories))
    bounds = work.tensors[0]
    assert bounds[0] == 0
    assert bounds[-1] == 12
    assert (bounds.diff() >= 0).all()
    # Candidates 6 to 8 have no pairs, and so may be in any share.
    assert all(bound % 3 == 0 for bound in bounds.tolist() if bound not in (7, 8))
    assert work.counts.sum() == 45


@pytest.mark.usefixtures("instructions", "_shares")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("units", [(24,), (80, 40)])
def test_values_that_are_spent_have_the_same_gradients(shape, units):
    lengths, per_request, dim, step_dim = SHAPES[shape]
    candidate, values, *histories = inputs(lengths, per_request, dim, step_dim)
    attention = scattered(TargetAttention(dim, step_dim=step_dim, hidden_units=units))
    found = []
    for spend in (False, True):
        leaves = [candidate.clone().requires_grad_(), values.clone().requires_grad_()]
        own = leaves[1] * 1
        sums = attention(leaves[0], own, *histories, spend=spend)
        sums.backward(torch.linspace(-1, 1, sums.numel()).view_as(sums))
        found.append([each.grad for each in (*leaves, *attention.parameters())])
        attention.zero_grad()
        assert torch.equal(own, values) == (not spend or per_request > 1)
    assert all(torch.equal(*each) for each in zip(*found, strict=True))


def test_there_is_one_way_back_through_spent_values():
    candidate, values, *histories = inputs([3, 9], 1, 8, 8)
    candidate.requires_grad_()
    sums = TargetAttention(8)(candidate, values, *histories, spend=True).sum()
    sums.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="expected one way back"):
        sums.backward()
