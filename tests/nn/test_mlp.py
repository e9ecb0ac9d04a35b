import pytest
import torch
from torch import nn

from finerank.nn.linear import split_linear
from finerank.nn.mlp import MLP
from finerank.nn.normalization import BatchNorm

KINDS = [
    {"activation": "relu"},
    {"activation": "dice"},
    {"activation": "prelu", "normalization": "batch"},
    {"activation": "silu", "normalization": "layer"},
]


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_by_hand(set_parameters):
    mlp = MLP(2, (2, 1))
    set_parameters(
        mlp,
        linears__0__weight=[[1.0, -2.0], [3.0, 0.5]],
        linears__0__bias=[0.25, -1.0],
        linears__1__weight=[[7.0, -1.5]],
        linears__1__bias=[10.0],
    )
    # First layer: 1 - 4 + 0.25 = -2.75, cut to 0, and 3 + 1 - 1 = 3. Second: 10 - 1.5 * 3.
    assert mlp(torch.tensor([[1.0, 2.0]])).tolist() == [[5.5]]


def test_split_linear_by_hand(set_parameters):
    linear = nn.Linear(3, 1)
    set_parameters(linear, weight=[[2.0, -3.0, 5.0]], bias=[0.5])
    request = torch.tensor([[1.0], [10.0]])
    candidate = torch.tensor([[4.0, 6.0], [7.0, 8.0], [-1.0, 0.0]])
    out = split_linear(linear, request, candidate, torch.tensor([1, 0, 1]))
    # 20 - 12 + 30 + 0.5, 2 - 21 + 40 + 0.5, 20 + 3 + 0 + 0.5
    assert out.tolist() == [[38.5], [21.5], [23.5]]


@pytest.mark.parametrize("request_of_candidate", [[0, 1, 2], [2, 1, 0]])
def test_split_linear_of_one_candidate_each(request_of_candidate):
    layer, request, candidate = nn.Linear(5, 4).double(), randn(3, 2), randn(3, 3)
    inputs = (request, candidate, *layer.parameters())
    split = split_linear(layer, request, candidate, torch.tensor(request_of_candidate))
    whole = layer(torch.cat([request[request_of_candidate], candidate], dim=1))
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-10)
    cotangent = torch.randn_like(whole)
    of_split, of_whole = (torch.autograd.grad(x, inputs, cotangent) for x in (split, whole))
    torch.testing.assert_close(of_split, of_whole, rtol=0, atol=1e-10)
    adds_up = "Add" in split.grad_fn.name() and "Addmm" not in split.grad_fn.name()
    assert adds_up == (request_of_candidate != [0, 1, 2])  # else two outputs and their sum


@pytest.mark.parametrize("hidden_units", [(), (4,), (4, 3)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_forward_split_is_forward_on_the_concatenation(hidden_units, kind, dtype):
    mlp = MLP(5, hidden_units, **kind).double()
    request, candidate = randn(3, 2), randn(4, 3)
    request_of_candidate = torch.tensor([2, 0, 0, 2], dtype=dtype)  # request 1 has no candidate
    inputs = (request, candidate, *mlp.parameters())
    whole = mlp(torch.cat([request[request_of_candidate], candidate], dim=1))
    split = mlp.forward_split(request, candidate, request_of_candidate)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-10)
    cotangent = torch.randn_like(whole)
    torch.testing.assert_close(
        torch.autograd.grad(split, inputs, cotangent),
        torch.autograd.grad(whole, inputs, cotangent),
        rtol=0,
        atol=1e-10,
    )
    assert split.shape == (4, mlp.output_dim)


@pytest.mark.parametrize("width", [0, 5])
def test_forward_split_where_one_side_has_no_columns(width):
    mlp = MLP(5, (2,)).double()
    request, candidate = randn(1, width), randn(3, 5 - width)
    request_of_candidate = torch.zeros(3, dtype=torch.int64)
    whole = mlp(torch.cat([request.expand(3, -1), candidate], dim=1))
    split = mlp.forward_split(request, candidate, request_of_candidate)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, check_gradients):
    mlp = MLP(3, (4, 2), **kind).double()
    x = randn(6, 3)
    check_gradients(mlp, lambda: mlp(x), x)


@pytest.mark.parametrize("hidden_units", [(), (4, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_apart(hidden_units, kind, check_rows_apart):
    mlp = MLP(3, hidden_units, **kind).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    mlp(x)
    check_rows_apart(mlp, x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_batch_of_one(kind):
    mlp = MLP(3, (4, 3), **kind)
    y = mlp(torch.randn(1, 3))
    y.sum().backward()
    assert y.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in mlp.parameters())


@pytest.mark.parametrize(
    ("normalization", "kinds"),
    [
        (None, [nn.ReLU, nn.Dropout]),
        ("batch", [BatchNorm, nn.ReLU, nn.Dropout]),
        ("layer", [nn.LayerNorm, nn.ReLU, nn.Dropout]),
    ],
)
def test_each_layer_is_linear_normalization_activation_dropout(normalization, kinds):
    mlp = MLP(3, (4, 4), normalization=normalization, dropout=0.5)
    assert [[type(module) for module in finish] for finish in mlp.finishes] == [kinds, kinds]


def test_dropout_is_for_training():
    mlp = MLP(1, (1000,), activation="prelu", dropout=0.2)
    x = torch.ones(1, 1)
    plain = mlp.eval()(x)
    dropped = mlp.train()(x)
    kept = dropped != 0
    assert kept.double().mean() == pytest.approx(0.8, abs=0.05)
    torch.testing.assert_close(dropped[kept], plain[kept] / 0.8)
