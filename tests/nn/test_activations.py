from math import exp
from typing import get_args

import pytest
import torch
from torch import nn

from finerank.nn import activations
from finerank.nn.activations import ActivationName, Dice, activation

SIGMOID_1 = 1 / (1 + exp(-1))  # 0.7311
SIGMOID_MINUS_1 = 1 - SIGMOID_1


@pytest.fixture
def dice(set_parameters):
    dice = Dice(2)
    set_parameters(dice, alpha=[0.25, -0.5])
    return dice.double()


# Means 2 and 4; biased variances 1 and 9: each value is one deviation from its neuron's mean.
ROWS = torch.tensor([[1.0, 7.0], [3.0, 1.0]], dtype=torch.float64)


def test_dice_by_hand_in_training(dice):
    low, high = SIGMOID_MINUS_1, SIGMOID_1
    expected = [
        [1 * (low + high * 0.25), 7 * (high + low * -0.5)],
        [3 * (high + low * 0.25), 1 * (low + high * -0.5)],
    ]
    torch.testing.assert_close(dice(ROWS), torch.tensor(expected, dtype=torch.float64))


def test_dice_by_hand_in_eval(dice):
    dice(ROWS)
    # Running statistics start at mean 0 and variance 1 and go a tenth of the way to the batch's
    # (unbiased variances 2 and 18): means 0.2 and 0.4, variances 1.1 and 2.7.
    x = torch.tensor([[0.2 + 1.1**0.5, 0.4 - 2.7**0.5]], dtype=torch.float64)  # one deviation off
    low, high = SIGMOID_MINUS_1, SIGMOID_1
    gates = torch.tensor([[high + low * 0.25, low + high * -0.5]], dtype=torch.float64)
    torch.testing.assert_close(dice.eval()(x), x * gates, rtol=1e-6, atol=0)


def test_dice_has_no_scale_or_shift_and_starts_at_alpha_zero():
    parameters = dict(Dice(3).named_parameters())
    assert list(parameters) == ["alpha"]
    assert parameters["alpha"].tolist() == [0, 0, 0]


def test_dice_of_a_constant_neuron_is_finite():
    x = torch.full((4, 1), 3.0, requires_grad=True)
    y = Dice(1)(x)
    y.sum().backward()
    assert y.flatten().tolist() == pytest.approx([1.5] * 4)  # at the mean the gate is a half
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("part", [1, 6, 10, 2**18])  # numbers: of 1, 2, 3 and all rows
def test_gradients_of_dice_in_parts_equal_those_of_its_definition(part, monkeypatch):
    monkeypatch.setattr(activations, "_PART", part)
    torch.manual_seed(0)
    dice = Dice(3).double()
    torch.nn.init.normal_(dice.alpha)
    s = torch.randn(8, 3, dtype=torch.float64) * 2 + torch.tensor([50.0, 0.1, -3.0])
    s.requires_grad_()
    upstream = torch.randn(8, 3, dtype=torch.float64)
    found = torch.autograd.grad(dice(s), [s, dice.alpha], upstream)
    p = torch.sigmoid((s - s.mean(0)) / torch.sqrt(s.var(0, correction=0) + 1e-8))
    expected = torch.autograd.grad(p * s + (1 - p) * dice.alpha * s, [s, dice.alpha], upstream)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", get_args(ActivationName))
def test_gradients(name, check_gradients):
    module = activation(name, 3).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    check_gradients(module, lambda: module(x), x)


@pytest.mark.parametrize("name", get_args(ActivationName))
def test_rows_apart(name, check_rows_apart):
    module = activation(name, 3).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    module(x)
    check_rows_apart(module, x)


@pytest.mark.parametrize("rows", [0, 1])
def test_dice_keeps_its_statistics_where_a_batch_has_none(rows, dice):
    dice(ROWS)
    before = {name: value.clone() for name, value in dice.state_dict().items()}
    dice(ROWS[:rows])
    torch.testing.assert_close(dice.state_dict(), before)


def test_names():
    kinds = {name: type(activation(name, 3)) for name in get_args(ActivationName)}
    assert kinds == {
        "relu": nn.ReLU,
        "prelu": nn.PReLU,
        "dice": Dice,
        "silu": nn.SiLU,
        "gelu": nn.GELU,
    }
    assert activation("prelu", 3).weight.shape == (3,)


@pytest.mark.parametrize("momentum_batches", [1, 3])
def test_the_closed_form_of_dice_is_the_composition(momentum_batches):
    """Output, gradients and running statistics are those of batch normalisation and a gate."""
    closed, norm = Dice(5).double(), nn.BatchNorm1d(5, eps=1e-8, affine=False).double()
    nn.init.normal_(closed.alpha)
    for _ in range(momentum_batches):
        x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
        gate = torch.sigmoid(norm(x))
        expected = x * (gate + (1 - gate) * closed.alpha)
        upstream = torch.randn_like(x)
        for each, other in zip(
            torch.autograd.grad(expected, (x, closed.alpha), upstream),
            torch.autograd.grad(closed(x), (x, closed.alpha), upstream),
            strict=True,
        ):
            torch.testing.assert_close(other, each)
    statistics = closed.normalization.state_dict()
    torch.testing.assert_close(statistics, norm.state_dict())
    with torch.no_grad():  # without a gradient the composition itself
        torch.testing.assert_close(closed(x), expected)
