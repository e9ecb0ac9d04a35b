"""A ReLU and the linear map behind it by compiled functions, against torch in twice the digits."""

import pytest
import torch
from torch import nn

from finerank.nn import onednn
from finerank.nn import relu_linear as module
from finerank.nn.kernels import library
from finerank.nn.mlp import MLP
from finerank.nn.relu_linear import relu_linear, serves
from finerank.nn.stacked import StackedLinear, StackedMLP

pytestmark = pytest.mark.skipif(
    not library.is_there(), reason="no functions are compiled for this machine"
)


@pytest.fixture(params=[1, 3])
def _shares(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    monkeypatch.setattr(module, "_FEWEST", 1)


@pytest.fixture
def always(monkeypatch):
    """As on a processor where it is the fastest, and for small products, too."""
    monkeypatch.setattr(module, "_WORTH", 0)
    monkeypatch.setattr(onednn, "is_faster", lambda: True)


@pytest.mark.usefixtures("instructions", "_shares")
@pytest.mark.parametrize("rows", [1, 7, 230])
@pytest.mark.parametrize(("members", "inputs", "outputs"), [(1, 16, 48), (3, 64, 16), (2, 80, 96)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_equals_torch(rows, members, inputs, outputs, bias, relu):
    x = torch.randn(rows, members, inputs, requires_grad=True)
    weight = torch.randn(members, outputs, inputs, requires_grad=True)
    shift = torch.randn(members, outputs, requires_grad=True) if bias else None
    leaves = [x, weight, shift] if bias else [x, weight]
    found = relu_linear(x, weight, shift, relu=relu)
    doubles = [each.detach().double().requires_grad_() for each in leaves]
    active = doubles[0].relu() if relu else doubles[0]
    expected = torch.einsum("bmi,moi->bmo", active, doubles[1])
    expected = expected + doubles[2] if bias else expected
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    upstream = torch.randn(rows, members, outputs)
    for each, other in zip(
        torch.autograd.grad(found, leaves, upstream),
        torch.autograd.grad(expected, doubles, upstream.double()),
        strict=True,
    ):
        torch.testing.assert_close(each.double(), other, rtol=1e-5, atol=1e-3)


def test_what_is_not_a_number_stays_so():
    x = torch.zeros(1, 1, 16)
    x[0, 0, 3] = float("nan")
    weight = torch.ones(1, 16, 16)
    assert relu_linear(x, weight, None).isnan().all()
    assert relu_linear(x, weight, None, relu=False).isnan().all()


@pytest.mark.usefixtures("always")
def test_where_it_is_the_fastest(monkeypatch):
    x = torch.zeros(8, 2, 32)
    assert serves(x, 2, 16)
    assert not serves(x, 2, 12)
    assert not serves(torch.zeros(8, 2, 20), 2, 16)
    assert not serves(x.double(), 2, 16)
    assert not serves(x.to("meta"), 2, 16)
    assert serves(x.flatten(1), 1, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert serves(x, 2, 16)
        assert not serves(x.flatten(1), 1, 16)
    monkeypatch.setattr(onednn, "is_faster", lambda: False)
    assert serves(x, 2, 16)
    assert not serves(x.flatten(1), 1, 16)
    monkeypatch.setattr(module, "_WORTH", 8 * 2 * 32 * 16 + 1)
    assert not serves(x, 2, 16)
    monkeypatch.setattr(library, "is_there", lambda: False)
    assert not serves(x, 2, 16)


@pytest.fixture
def calls(monkeypatch):
    """Which compiled functions were called."""
    seen, call = [], library.call
    monkeypatch.setattr(library, "call", lambda *given: seen.append(given[0]) or call(*given))
    return seen


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, True),
        ({"activation": "prelu"}, False),
        ({"dropout": 0.1}, False),
        ({"normalization": "layer"}, False),
    ],
)
def test_an_mlp_takes_it_where_a_relu_is_all_that_is_between(options, taken, calls):
    mlp, x = MLP(20, (32, 16, 5), **options), torch.randn(6, 20)
    output = mlp(x)
    output.sum().backward()
    expected = ["members_forward", "members_backward"]
    assert calls == (expected if taken else [])
    if taken:
        layers = [*mlp.linears]
        for layer in layers:
            x = torch.relu(nn.functional.linear(x, layer.weight, layer.bias))
        torch.testing.assert_close(output, x, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("always")
def test_members_take_it_with_and_without_a_relu(calls):
    stacked = StackedMLP(3, 20, (32, 16))
    shared = stacked.shared(torch.randn(6, 20))
    assert calls == ["members_forward"]
    assert shared.shape == (6, 3, 16)
    calls.clear()
    linear, x = StackedLinear(3, 16, 32), torch.randn(6, 3, 16)
    expected = torch.einsum("bmi,moi->bmo", x, linear.weight) + linear.bias
    torch.testing.assert_close(linear(x), expected, rtol=1e-5, atol=1e-5)
    assert calls == ["members_forward"]
