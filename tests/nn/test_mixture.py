from math import log

import pytest
import torch
from torch import nn

from finerank.nn.kernels import library
from finerank.nn.mixture import Experts, Towers, mix, mix_by_logits
from finerank.nn.mlp import MLP
from finerank.nn.stacked import StackedLinear

ACTIVATIONS = ["relu", "prelu", "dice"]


def copy_member(stacked, member, mlp):
    """Give one MLP the weights of one member of a stack."""
    with torch.no_grad():
        for ours, theirs in zip(mlp.linears, stacked.linears, strict=True):
            ours.weight.copy_(theirs.weight[member])
            ours.bias.copy_(theirs.bias[member])
        for ours, theirs in zip(mlp.finishes, stacked.finishes, strict=True):
            for ours_p, theirs_p in zip(ours.parameters(), theirs.parameters(), strict=True):
                ours_p.copy_(theirs_p.view(-1, *ours_p.shape)[member])


def scatter_slopes(module):
    """Set the learned slopes (Dice, PReLU) apart from each other."""
    for finish in module.mlps.finishes:
        for slope in finish.parameters():
            nn.init.normal_(slope)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_stacked_linear_by_hand(set_parameters):
    linear = StackedLinear(2, 2, 2)
    set_parameters(
        linear,
        weight=[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [-7.0, 8.0]]],
        bias=[[0.5, -1.0], [10.0, 20.0]],
    )
    # Member 0 sees (1, 10): 21.5 and 42. Member 1 sees (2, 3): 10 + 18 + 10 and -14 + 24 + 20.
    x = torch.tensor([[[1.0, 10.0], [2.0, 3.0]]])
    assert linear(x).tolist() == [[[21.5, 42.0], [38.0, 30.0]]]
    # Both see (1, 10): member 1 gives 5 + 60 + 10 and -7 + 80 + 20.
    assert linear(x[:, :1]).tolist() == [[[21.5, 42.0], [75.0, 93.0]]]


def test_mix_by_hand():
    experts = torch.tensor([[[1.0, 2.0], [10.0, 30.0]]])
    gates = torch.tensor([[[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]])
    assert mix(experts, gates).tolist() == [[[7.75, 23.0], [5.5, 16.0], [1.0, 2.0]]]


@pytest.mark.parametrize("width", [16, 3])
def test_mix_by_logits_by_hand(width):
    """The first gate's shares are 1 / 9 and 8 / 9; the second's logits are far from zero."""
    experts = torch.tensor([1.0, 10.0]).view(1, 2, 1).expand(1, 2, width)
    logits = torch.tensor([[[0.0, log(8)], [200.0, 200.0], [-300.0, 0.0]]])
    expected = torch.tensor([9.0, 5.5, 10.0]).view(1, 3, 1).expand(1, 3, width)
    torch.testing.assert_close(mix_by_logits(experts, logits), expected)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("rows", "gates", "members", "width"), [(1, 1, 1, 16), (200, 3, 8, 48), (65, 7, 5, 32)]
)
def test_compiled_mixtures_equal_torch(rows, gates, members, width, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    calls, call = [], library.call
    monkeypatch.setattr(library, "call", lambda *given: calls.append(given[0]) or call(*given))
    given = torch.randn(rows, members, width), torch.randn(rows, gates, members) * 5
    upstream = torch.randn(rows, gates, width)
    found = [each.requires_grad_() for each in given]
    doubles = [each.detach().double().requires_grad_() for each in given]
    outputs = mix_by_logits(*found), mix_by_logits(*doubles)
    assert calls == ["mixture_forward"]  # float64 is torch's
    torch.testing.assert_close(outputs[0].double(), outputs[1], rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(outputs[0], found, upstream)
    expected = torch.autograd.grad(outputs[1], doubles, upstream.double())
    for each, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(each.double(), other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("logits", [(2, 2, 4), (3, 2, 3), (2, 3)])
def test_logits_that_do_not_fit_are_refused(logits):
    with pytest.raises((RuntimeError, IndexError)):
        mix_by_logits(torch.randn(2, 3, 16), torch.randn(logits))


def test_linear_towers_by_hand(set_parameters):
    towers = Towers(2, (), num_tasks=2)
    set_parameters(towers, logit__weight=[[[1.0, 2.0]], [[3.0, -4.0]]], logit__bias=[[0.5], [-1.0]])
    # 5 + 12 + 0.5 and 21 - 32 - 1
    assert towers(torch.tensor([[[5.0, 6.0], [7.0, 8.0]]])).tolist() == [[17.5, -12.0]]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_experts_are_a_loop_over_mlps(activation):
    experts = Experts(3, (4, 2), num_experts=3, activation=activation).double()
    scatter_slopes(experts)
    x = randn(6, 3)
    expected = []
    for member in range(3):
        mlp = MLP(3, (4, 2), activation=activation).double()
        copy_member(experts.mlps, member, mlp)
        expected.append(mlp(x))
    expected = torch.stack(expected, dim=1)
    together = experts(x)
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-10)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(together, x, cotangent),
        torch.autograd.grad(expected, x, cotangent),
        rtol=0,
        atol=1e-10,
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_towers_are_a_loop_over_mlps(activation):
    towers = Towers(3, (4,), num_tasks=2, activation=activation).double()
    scatter_slopes(towers)
    x = randn(6, 2, 3)
    expected = []
    for task in range(2):
        mlp = MLP(3, (4,), activation=activation).double()
        copy_member(towers.mlps, task, mlp)
        expected.append(mlp(x[:, task]) @ towers.logit.weight[task, 0] + towers.logit.bias[task])
    torch.testing.assert_close(towers(x), torch.stack(expected, dim=1), rtol=0, atol=1e-10)


BLOCKS = [
    (lambda: Experts(3, (4, 2), num_experts=3, activation="dice"), (5, 3)),
    (lambda: Experts(3, (2,), num_experts=1, activation="prelu"), (5, 3)),
    (lambda: Towers(3, (4,), num_tasks=2, activation="dice"), (5, 2, 3)),
    (lambda: Towers(3, (), num_tasks=2), (5, 2, 3)),
    (lambda: Towers(3, (2,), num_tasks=2, activation="silu"), (5, 1, 3)),
]


@pytest.mark.parametrize(("block", "shape"), BLOCKS)
def test_gradients_and_rows_apart(block, shape, check_gradients, check_rows_apart):
    module, x = block().double(), randn(*shape)
    check_gradients(module, lambda: module(x), x)
    check_rows_apart(module, x.detach())


def test_mix_gradients():
    experts, gates = randn(2, 3, 4), randn(2, 2, 3)
    assert torch.autograd.gradcheck(mix, (experts, gates))
    assert torch.autograd.gradcheck(mix_by_logits, (experts, gates))


def test_members_start_apart_and_as_torch_linear_does():
    linear = StackedLinear(2, 100, 50)
    assert not torch.equal(linear.weight[0], linear.weight[1])
    for parameter in linear.parameters():
        assert 0.09 < parameter.abs().max() <= 0.1  # 1 / sqrt(100)


def test_without_inputs_all_outputs_are_alike():
    """As of gates that read a request of which nothing is known."""
    linear = StackedLinear(2, 0, 3, bias=False)
    shares = linear.shared(torch.zeros(4, 0)).softmax(dim=2)
    torch.testing.assert_close(shares, torch.full((4, 2, 3), 1 / 3))


def test_dropout_reaches_experts_and_towers():
    experts = Experts(2, (500,), num_experts=2, activation="prelu", dropout=0.2)
    share = (experts(torch.ones(1, 2)) == 0).double().mean()
    assert share == pytest.approx(0.2, abs=0.06)
    towers = Towers(2, (500,), num_tasks=2, dropout=0.2)
    share = (towers.mlps(torch.full((1, 2, 2), 9.0)) == 0).double().mean()
    assert share > (towers.eval().mlps(torch.full((1, 2, 2), 9.0)) == 0).double().mean()


def test_experts_without_a_layer_are_refused():
    with pytest.raises(ValueError, match="hidden layer in the experts"):
        Experts(3, (), num_experts=2)


def test_output_dims():
    assert Experts(3, (4, 2), num_experts=5).output_dim == 2
    assert Towers(3, (4,), num_tasks=2).output_dim == 2
