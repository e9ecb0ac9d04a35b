"""Products by oneDNN against torch's own, and when they are taken."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from finerank.nn import onednn
from finerank.nn.linear import Linear, split_linear
from finerank.nn.pair_linear import pair_linear
from finerank.nn.pairs import pairs_of

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch is without oneDNN"
)


class Operations(TorchDispatchMode):
    """Notes the name of each operation."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def always(monkeypatch):
    """As on a processor where oneDNN is faster, however small the product."""
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    monkeypatch.setattr(onednn, "_WORTH", 0)


def weights(outputs, inputs):
    wide = torch.randn(outputs, inputs + 3)
    return {
        "whole": torch.randn(outputs, inputs),
        "of some columns": wide[:, 3:],
        "transposed": torch.randn(inputs, outputs).t(),
        "transposed, of some columns": torch.randn(inputs, outputs + 3)[:, :outputs].t(),
    }


@pytest.mark.parametrize("rows", [0, 1, 32, 33, 1000])
@pytest.mark.parametrize("kind", weights(1, 1))
def test_product(rows, kind):
    x, weight, bias = torch.randn(rows, 20), weights(12, 20)[kind], torch.randn(12)
    torch.testing.assert_close(onednn.product(x, weight, bias), x @ weight.t() + bias)
    torch.testing.assert_close(onednn.product(x, weight), x @ weight.t())


@pytest.mark.parametrize("kind", weights(1, 1))
def test_a_part_of_a_matrix_is_copied_before(kind):
    """Of others than whole ones oneDNN's product is many times slower."""
    weight = weights(12, 20)[kind]
    whole = onednn._whole(weight)
    assert torch.equal(whole, weight)
    assert whole.is_contiguous() or whole.t().is_contiguous()
    assert (whole is weight) == (kind not in {"of some columns", "transposed, of some columns"})


@pytest.mark.parametrize("rows", [1, 32, 33, 1000])
@pytest.mark.parametrize(("inputs", "outputs"), [(20, 12), (12, 20), (8, 8)])
def test_product_of_rows(rows, inputs, outputs):
    x, y = torch.randn(rows, inputs + 3)[:, 3:], torch.randn(rows, outputs)
    found = onednn.product_of_rows(x, y)
    torch.testing.assert_close(found, x.t() @ y, rtol=1e-4, atol=1e-4)
    assert found.is_contiguous()


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("rows", [1, 33, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_has_the_gradients_of_torch(rows, bias):
    layer, x = Linear(20, 12, bias=bias), torch.randn(rows, 20, requires_grad=True)
    found, expected = layer(x), functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(found, expected)
    wanted, upstream = [x, *layer.parameters()], torch.randn(rows, 12)
    for each, other in zip(
        torch.autograd.grad(found, wanted, upstream),
        torch.autograd.grad(expected, wanted, upstream),
        strict=True,
    ):
        torch.testing.assert_close(each, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("always")
def test_an_input_that_needs_no_gradient_gets_none():
    layer = Linear(20, 12)
    for needed in (False, True):
        with Operations() as seen:
            layer(torch.randn(4, 20, requires_grad=needed)).sum().backward()
        assert seen.names.count("_linear_pointwise") == 1 + needed
    assert layer.weight.grad is not None
    layer.weight.requires_grad_(requires_grad=False)
    layer.weight.grad = None
    x = torch.randn(4, 20, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(dim=0).expand(4, -1))


@pytest.mark.usefixtures("always")
def test_all_products_of_a_layer_and_of_attention_are_taken():
    rows, dim, width = 33, 20, 12
    candidate, values = torch.randn(rows, dim), torch.randn(3 * rows, dim)
    layer, split = Linear(width, width), Linear(2 * width, width)
    weight, bias = torch.randn(width, 3 * dim, requires_grad=True), torch.randn(width)
    pairs = pairs_of(torch.arange(0, 3 * rows + 1, 3), torch.arange(rows))
    with Operations() as seen:
        hidden = pair_linear(candidate, values.requires_grad_(), weight, bias, pairs)
        half = layer(hidden)
        split_linear(split, half[:rows], half, pairs.candidate).sum().backward()
    assert {"_linear_pointwise", "convolution_backward"} <= set(seen.names)
    assert not set(seen.names) & {"mm", "addmm", "addmm_", "bmm", "baddbmm"}


def test_small_products_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    assert onednn.multiplies(torch.empty(1024, 128), 64)
    assert not onednn.multiplies(torch.empty(1023, 128), 64)
    assert not onednn.multiplies(torch.empty(1024, 128, dtype=torch.float64), 64)
    assert not onednn.multiplies(torch.empty(1024, 128, dtype=torch.bfloat16), 64)
    assert not onednn.multiplies(torch.empty(1024, 128, device="meta"), 64)


@pytest.mark.parametrize(
    ("processor", "capability", "at_hand", "faster"),
    [
        ("vendor_id : AuthenticAMD", "AVX512", True, True),
        ("vendor_id : AuthenticAMD", "AVX512", False, False),
        ("vendor_id : AuthenticAMD", "AVX2", True, False),
        ("vendor_id : GenuineIntel", "AVX512", True, False),
    ],
)
def test_where_it_is_faster(processor, capability, at_hand, faster, monkeypatch):
    monkeypatch.setattr(onednn, "_processor", lambda: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: at_hand)
    assert onednn.is_faster.__wrapped__() is faster


def test_the_processor_has_a_name():
    assert onednn._processor()


@pytest.mark.usefixtures("always")
def test_numbers_of_rows_near_each_other_share_a_kernel(monkeypatch):
    seen, even = [], onednn.even_rows
    monkeypatch.setattr(onednn, "even_rows", lambda x: seen.append(len(even(x))) or even(x))
    for rows in (1030, 1050, 1088):
        layer = Linear(8, 4)
        layer(torch.randn(rows, 8, requires_grad=True)).sum().backward()
    assert set(seen) == {1088}
