"""Products in short numbers: what autocast gives, of few different numbers of rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from finerank.nn.linear import Linear, split_linear
from finerank.nn.products import bmm, even, linear, padded
from finerank.nn.stacked import StackedLinear

SHORT = torch.bfloat16


def autocast(enabled=True):
    return torch.autocast("cpu", SHORT, enabled=enabled)


@given(st.integers(0, 5_000_000))
def test_a_number_of_rows_is_rounded_up_by_a_sixteenth_at_most(rows):
    with autocast():
        size = len(padded(torch.empty(rows, 0)))
    assert rows <= size <= rows + rows / 16
    assert size == 0 or size / (size & -size) < 32  # five binary digits before the zeros


def test_of_all_numbers_of_rows_few_remain():
    with autocast():
        sizes = {len(padded(torch.empty(rows, 0))) for rows in range(1024, 2049)}
    assert len(sizes) == 17


@pytest.mark.parametrize("rows", [0, 1, 33, 64, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_that_of_autocast(rows, bias):
    torch.manual_seed(0)
    layer = Linear(100, 80, bias=bias)
    x = torch.randn(rows, 100, requires_grad=True)
    upstream = torch.randn(rows, 80).to(SHORT)
    with autocast():
        found, expected = layer(x), functional.linear(x, layer.weight, layer.bias)
    assert found.dtype == expected.dtype == SHORT
    torch.testing.assert_close(found, expected)
    wanted = [x, *layer.parameters()]
    for each, other in zip(
        torch.autograd.grad(found, wanted, upstream),
        torch.autograd.grad(expected, wanted, upstream),
        strict=True,
    ):
        torch.testing.assert_close(each, other, rtol=0.02, atol=0.02)


def test_batches_of_near_sizes_share_their_products(short_products):
    layer, stacked = Linear(100, 80), StackedLinear(3, 100, 4)
    split = Linear(100, 80)
    shapes = []
    for rows in (1030, 1050, 1088):
        x = torch.randn(rows, 100, requires_grad=True)
        with short_products() as seen:
            with autocast():
                of_split = split_linear(split, x[:, :50], x[:, 50:], torch.arange(rows).flip(0))
                mixed = bmm(x.view(rows, 10, 10), x.view(rows, 10, 10))
                outputs = [layer(x), stacked(x.unsqueeze(1).repeat(1, 3, 1)), of_split, mixed]
            sum(each.sum() for each in outputs).backward()
        shapes.append(seen.shapes)
    assert shapes[0] == shapes[1] == shapes[2]
    assert len(shapes[0]) >= 10


@pytest.mark.parametrize("short", [True, False])
def test_members_of_their_own_input_are_those_of_autocast(short):
    torch.manual_seed(0)
    stacked, x = StackedLinear(3, 20, 4), torch.randn(33, 3, 20)
    with autocast(short):
        found = stacked(x)
    assert found.shape == (33, 3, 4)
    assert found.dtype == (SHORT if short else torch.float32)
    with autocast(short):
        for member in range(3):
            expected = functional.linear(x[:, member], stacked.weight[member], stacked.bias[member])
            torch.testing.assert_close(found[:, member], expected)


def test_without_autocast_nothing_is_padded():
    x = torch.randn(33, 20)
    assert padded(x) is x
    assert even(x, None) is x
    weight = torch.randn(8, 20)
    assert torch.equal(linear(x, weight), functional.linear(x, weight))


@pytest.mark.parametrize("outputs", [1, 30])
def test_a_narrow_product_stays_float32(outputs):
    layer, x = Linear(100, outputs), torch.randn(33, 100)
    with autocast():
        found = layer(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, layer(x))


def test_rows_are_made_short_with_zeros_behind_them():
    x = torch.randn(33, 4)
    rows = even(x, SHORT)
    assert rows.shape == (34, 4)
    assert torch.equal(rows[:33], x.to(SHORT))
    assert not rows[33:].any()
    whole = even(torch.arange(33), SHORT)
    assert whole.tolist() == [*range(33), 0]
