import copy

import pytest
import torch

from finerank.nn.cross import CrossNetwork, CrossNetworkV2
from finerank.nn.kernels import library


def test_vector_by_hand(set_parameters):
    cross = CrossNetwork(2, num_layers=2)
    set_parameters(cross, weight=[[3.0, -1.0], [-2.0, 1.0]], bias=[[0.5, -0.25], [1.0, 2.0]])
    # x0.w0 = 3 - 2 = 1, so x1 = (1, 2) + (0.5, -0.25) + (1, 2) = (2.5, 3.75);
    # x1.w1 = -5 + 3.75 = -1.25, so x2 = (-1.25, -2.5) + (1, 2) + (2.5, 3.75).
    assert cross(torch.tensor([[1.0, 2.0]])).tolist() == [[2.25, 3.25]]


def test_matrix_by_hand(set_parameters):
    cross = CrossNetworkV2(2, num_layers=2)
    set_parameters(
        cross,
        layers__0__weight=[[1.0, 2.0], [3.0, -1.0]],
        layers__0__bias=[0.5, -2.0],
        layers__1__weight=[[2.0, 9.0], [-1.0, 7.0]],
        layers__1__bias=[0.25, 3.0],
    )
    # W0 x0 + b0 = (5.5, -1), so x1 = (5.5, -2) + (1, 2) = (6.5, 0);
    # W1 x1 + b1 = (13.25, -3.5), so x2 = (13.25, -7) + (6.5, 0).
    assert cross(torch.tensor([[1.0, 2.0]])).tolist() == [[19.75, -7.0]]


def test_low_rank_by_hand(set_parameters):
    cross = CrossNetworkV2(2, num_layers=1, low_rank=1)
    set_parameters(
        cross,
        layers__0__0__weight=[[3.0, -1.0]],
        layers__0__1__weight=[[2.0], [5.0]],
        layers__0__1__bias=[1.0, -1.0],
    )
    # V x = 3 - 2 = 1; U V x + b = (3, 4); x1 = (3, 8) + (1, 2).
    assert cross(torch.tensor([[1.0, 2.0]])).tolist() == [[4.0, 10.0]]


def test_vector_is_the_papers_outer_product():
    cross = CrossNetwork(4, num_layers=3).double()
    torch.nn.init.normal_(cross.bias)
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = []
    for x0 in x:
        xl = x0
        for w, b in zip(cross.weight, cross.bias, strict=True):
            xl = torch.outer(x0, xl) @ w + b + xl
        expected.append(xl)
    torch.testing.assert_close(cross(x), torch.stack(expected), rtol=0, atol=1e-10)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("rows", "dim", "layers"), [(1, 5, 1), (200, 32, 2), (130, 39, 3)])
def test_compiled_crosses_equal_torch(rows, dim, layers, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    calls, call = [], library.call
    monkeypatch.setattr(library, "call", lambda *given: calls.append(given[0]) or call(*given))
    cross, x = CrossNetwork(dim, num_layers=layers), torch.randn(rows, dim, requires_grad=True)
    torch.nn.init.normal_(cross.bias)
    double, upstream = copy.deepcopy(cross).double(), torch.randn(rows, dim)
    leaves = [x, *cross.parameters()]
    found = cross(x)
    doubles = [x.detach().double().requires_grad_(), *double.parameters()]
    expected = double(doubles[0])
    assert calls == ["cross_forward"]  # float64 is torch's
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    for each, other in zip(
        torch.autograd.grad(found, leaves, upstream),
        torch.autograd.grad(expected, doubles, upstream.double()),
        strict=True,
    ):
        torch.testing.assert_close(each.double(), other, rtol=1e-4, atol=1e-3)


def test_rows_of_another_width_are_refused():
    with pytest.raises(RuntimeError, match="shape"):
        CrossNetwork(32, num_layers=2)(torch.randn(8, 48))


NETWORKS = [
    lambda dim, num_layers: CrossNetwork(dim, num_layers=num_layers),
    lambda dim, num_layers: CrossNetworkV2(dim, num_layers=num_layers),
    lambda dim, num_layers: CrossNetworkV2(dim, num_layers=num_layers, low_rank=8),
]


@pytest.mark.parametrize("network", NETWORKS)
def test_does_not_explode_at_the_start(network):
    x = torch.randn(64, 400)  # the largest of them about 4
    for _ in range(5):
        with torch.no_grad():
            crossed = network(400, 6)(x)
        assert crossed.abs().max() < 200
        assert crossed.square().mean().sqrt() < 5


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rows", [1, 3])
def test_gradients(network, rows, check_gradients):
    cross = network(3, 2).double()
    x = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
    check_gradients(cross, lambda: cross(x), x)
    assert cross(x).shape == (rows, cross.output_dim)


@pytest.mark.parametrize("network", NETWORKS)
def test_rows_apart(network, check_rows_apart):
    check_rows_apart(network(3, 2).double(), torch.randn(5, 3, dtype=torch.float64))
