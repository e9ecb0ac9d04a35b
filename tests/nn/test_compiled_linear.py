"""A ReLU and the linear map behind it by compiled functions, against torch in twice the digits."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from finerank.nn import compiled_linear
from finerank.nn.compiled_linear import (
    linear,
    product,
    product_of_rows,
    serves,
    serves_rows,
)
from finerank.nn.kernels import library
from finerank.nn.linear import Linear, split_linear
from finerank.nn.mlp import MLP
from finerank.nn.pair_linear import pair_linear
from finerank.nn.pairs import pairs_of
from finerank.nn.stacked import StackedLinear, StackedMLP

pytestmark = pytest.mark.skipif(
    not library.is_there(), reason="no functions are compiled for this machine"
)


class Operations(TorchDispatchMode):
    """Notes the name of each operation."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=[1, 3])
def _shares(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    monkeypatch.setattr(compiled_linear, "_FEWEST", 1)


@pytest.fixture
def always(monkeypatch):
    """As on a processor where it is the fastest, and for small products, too."""
    monkeypatch.setattr(compiled_linear, "_WORTH", 0)
    monkeypatch.setattr(compiled_linear, "is_faster", lambda: True)


@pytest.mark.usefixtures("instructions", "_shares")
@pytest.mark.parametrize("rows", [1, 7, 230])
@pytest.mark.parametrize(
    ("members", "inputs", "outputs"),
    [(1, 16, 48), (3, 64, 16), (2, 80, 96), (1, 20, 37), (2, 33, 5), (1, 150, 300)],
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_equals_torch(rows, members, inputs, outputs, bias, relu):
    x = torch.randn(rows, members, inputs, requires_grad=True)
    weight = torch.randn(members, outputs, inputs, requires_grad=True)
    shift = torch.randn(members, outputs, requires_grad=True) if bias else None
    leaves = [x, weight, shift] if bias else [x, weight]
    found = linear(x, weight, shift, relu=relu)
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


@pytest.mark.usefixtures("_shares")
def test_a_weights_gradient_holds_no_memory_of_other_shares():
    x, weight = torch.randn(60, 1, 32), torch.randn(1, 16, 32, requires_grad=True)
    linear(x, weight, None).sum().backward()
    found = product_of_rows(x.squeeze(1), torch.randn(60, 16))
    assert [each.untyped_storage().nbytes() for each in (weight.grad, found)] == [4 * 16 * 32] * 2


def test_what_is_not_a_number_stays_so():
    x = torch.zeros(1, 1, 16)
    x[0, 0, 3] = float("nan")
    weight = torch.ones(1, 16, 16)
    assert linear(x, weight, None, relu=True).isnan().all()
    assert linear(x, weight, None).isnan().all()


@pytest.mark.usefixtures("instructions", "_shares")
@pytest.mark.parametrize("rows", [1, 33, 1000])
@pytest.mark.parametrize(("inputs", "outputs"), [(20, 12), (12, 20), (16, 32)])
def test_products_without_a_gradient(rows, inputs, outputs):
    x, y = torch.randn(rows, inputs + 3)[:, 3:], torch.randn(rows, outputs)
    for weight in (torch.randn(outputs, inputs), torch.randn(inputs, outputs + 3)[:, :outputs].t()):
        torch.testing.assert_close(product(x, weight), x @ weight.t(), rtol=1e-4, atol=1e-4)
    found = product_of_rows(x, y)
    torch.testing.assert_close(found, x.t() @ y, rtol=1e-4, atol=1e-4)
    assert found.is_contiguous()


@pytest.mark.usefixtures("always")
def test_where_it_is_the_fastest(monkeypatch):
    x, weight = torch.zeros(8, 2, 32), torch.zeros(2, 16, 32)
    flat, single = torch.zeros(8, 64), torch.zeros(16, 64)
    assert serves(x, weight)
    assert serves(flat, single)
    assert serves(flat[:0], single)
    assert serves_rows(flat, torch.zeros(8, 16))
    assert not serves(x, weight[:, :15])
    assert not serves(x[..., :15], weight[..., :15])
    assert not serves_rows(flat, torch.zeros(8, 15))
    for other in (torch.float64, torch.bfloat16):
        assert not serves(x.to(other), weight)
        assert not serves(x, weight.to(other))
        assert not serves_rows(flat, torch.zeros(8, 16, dtype=other))
    assert not serves(x.to("meta"), weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert serves(x, weight)
        assert serves(x.bfloat16(), weight)
        assert not serves(flat, single)
    monkeypatch.setattr(compiled_linear, "is_faster", lambda: False)
    assert serves(x, weight)
    assert not serves(flat, single)
    assert not serves_rows(flat, torch.zeros(8, 16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not serves(x, weight)
    monkeypatch.setattr(compiled_linear, "_WORTH", 8 * 2 * 32 * 16 + 1)
    assert not serves(x, weight)
    monkeypatch.setattr(compiled_linear, "_WORTH", 0)
    monkeypatch.setattr(library, "is_there", lambda: False)
    assert not serves(x, weight)


@pytest.mark.usefixtures("always")
def test_what_does_not_fit_is_left_to_torch_to_refuse():
    layer, stacked = Linear(32, 32), StackedLinear(3, 32, 32)
    for wrong in (torch.randn(8, 48), torch.randn(8, 16)):
        with pytest.raises(RuntimeError, match="shape"):
            layer(wrong)
    with pytest.raises(RuntimeError, match=r"size|shape|batch"):
        stacked(torch.randn(8, 2, 32))
    with pytest.raises(RuntimeError, match="dtype"):
        Linear(32, 32).double()(torch.randn(8, 32))
    assert layer(torch.randn(4, 2, 32)).shape == (4, 2, 32)


@pytest.mark.usefixtures("always")
def test_short_numbers_of_members_are_made_long_under_autocast():
    stacked, x = StackedLinear(2, 16, 32), torch.randn(6, 2, 16, dtype=torch.bfloat16)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = stacked(x)
    assert found.dtype == torch.float32
    expected = torch.einsum("bmi,moi->bmo", x.float(), stacked.weight) + stacked.bias
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad[0].float(), stacked.weight.sum(dim=1), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("processor", "capability", "faster"),
    [
        ("vendor_id : AuthenticAMD", "AVX512", True),
        ("vendor_id : AuthenticAMD", "AVX2", False),
        ("vendor_id : GenuineIntel", "AVX512", False),
    ],
)
def test_on_which_processor(processor, capability, faster, monkeypatch):
    monkeypatch.setattr(compiled_linear, "_processor", lambda: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert compiled_linear.is_faster.__wrapped__() is faster


def test_the_processor_has_a_name():
    assert compiled_linear._processor()


@pytest.fixture
def calls(monkeypatch):
    """Which compiled functions were called, and with what."""
    seen, call = [], library.call
    monkeypatch.setattr(library, "call", lambda *given: seen.append(given) or call(*given))
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
def test_a_relu_between_two_layers_is_part_of_the_second(options, taken, calls):
    mlp, x = MLP(20, (32, 16, 5), **options), torch.randn(6, 20)
    output = mlp(x)
    assert [bool(work.relu) for _, work, *_ in calls] == [False, taken]  # the last is narrow
    if taken:
        for layer in mlp.linears:
            x = torch.relu(nn.functional.linear(x, layer.weight, layer.bias))
        torch.testing.assert_close(output, x, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("always")
def test_under_autocast_an_mlps_relu_stays_apart(calls):
    mlp = MLP(20, (80, 80))
    with torch.autocast("cpu", torch.bfloat16):
        assert mlp(torch.randn(6, 20)).dtype == torch.bfloat16
    assert not any(work.relu for _, work, *_ in calls)


@pytest.mark.usefixtures("always")
def test_only_what_is_needed_gets_a_gradient(calls):
    layer = Linear(20, 16)
    for needed in (False, True):
        layer(torch.randn(4, 20, requires_grad=needed)).sum().backward()
        assert (calls[-1][3] is not None) == needed
    layer.weight.requires_grad_(requires_grad=False)
    layer.weight.grad = None
    x = torch.randn(4, 20, requires_grad=True)
    layer(x).sum().backward()
    assert calls[-1][4] is None
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(dim=0).expand(4, -1))
    assert layer.bias.grad.unique().tolist() == [12.0]


@pytest.mark.usefixtures("always")
def test_all_products_of_a_layer_and_of_attention_are_taken():
    rows, dim, width = 33, 20, 16
    candidate, values = torch.randn(rows, dim), torch.randn(3 * rows, dim)
    layer, split = Linear(width, width), Linear(2 * width, width)
    weight, bias = torch.randn(width, 3 * dim, requires_grad=True), torch.randn(width)
    pairs = pairs_of(torch.arange(0, 3 * rows + 1, 3), torch.arange(rows))
    with Operations() as seen:
        hidden = pair_linear(candidate, values.requires_grad_(), weight, bias, pairs)
        half = layer(hidden)
        split_linear(split, half[:rows], half, pairs.candidate).sum().backward()
    assert not set(seen.names) & {"mm", "addmm", "addmm_", "bmm", "baddbmm"}


@pytest.mark.usefixtures("always")
def test_members_take_it_with_and_without_a_relu(calls):
    stacked = StackedMLP(3, 20, (32, 16))
    shared = stacked.shared(torch.randn(6, 20))
    assert [(work.members, work.relu) for _, work, *_ in calls] == [(1, 0), (3, 1)]
    assert shared.shape == (6, 3, 16)
    calls.clear()
    stacked, x = StackedLinear(3, 16, 32), torch.randn(6, 3, 16)
    expected = torch.einsum("bmi,moi->bmo", x, stacked.weight) + stacked.bias
    torch.testing.assert_close(stacked(x), expected, rtol=1e-5, atol=1e-5)
    assert [(work.members, work.relu) for _, work, *_ in calls] == [(3, 0)]
