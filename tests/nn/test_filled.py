"""Statistics of the rows that count are those of a batch without the others."""

from functools import partial

import pytest
import torch

from finerank.nn.activations import Dice
from finerank.nn.filled import counting, rows_that_count
from finerank.nn.normalization import BatchNorm

BLOCKS = {
    "dice": Dice,
    "batch norm": BatchNorm,
    "batch norm that learns nothing": partial(BatchNorm, affine=False),
}
ROWS, FILLING, WIDTH = 7, 3, 4


def block(kind, dtype=torch.float64):
    torch.manual_seed(0)
    made = BLOCKS[kind](WIDTH).to(dtype)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def results(block, x, upstream, count=None):
    """Outputs, the gradients of the rows and of what is learned, and what is kept."""
    x = x.clone().requires_grad_()
    with counting(count):
        for _ in range(3):
            output = block(x)
    output.backward(upstream)
    learned = [parameter.grad for parameter in block.parameters()]
    return output.detach(), x.grad, [*learned, *block.buffers()]


@pytest.mark.parametrize("kind", BLOCKS)
def test_rows_that_fill_up_change_nothing(kind):
    x, upstream = torch.randn(2, ROWS + FILLING, WIDTH, dtype=torch.float64).unbind()
    upstream[ROWS:] = 0  # as their labels are missing
    x[ROWS:] += 100
    output, gradient, others = results(block(kind), x, upstream, torch.tensor(ROWS))
    expected = results(block(kind), x[:ROWS], upstream[:ROWS])
    torch.testing.assert_close(output[:ROWS], expected[0])
    torch.testing.assert_close(gradient[:ROWS], expected[1])
    assert torch.equal(gradient[ROWS:], torch.zeros_like(gradient[ROWS:]))
    for found, same in zip(others, expected[2], strict=True):
        torch.testing.assert_close(found, same)


@pytest.mark.parametrize("kind", BLOCKS)
def test_in_evaluation_all_rows_are_alike(kind):
    x, made = torch.randn(ROWS, WIDTH, dtype=torch.float64), block(kind).eval()
    expected = made(x)
    with counting(torch.tensor(2)):
        assert torch.equal(made(x), expected)


def test_what_counts_within_is_over_behind_it():
    outer, inner = torch.tensor(5), torch.tensor(3)
    with counting(outer):
        with counting(inner):
            assert rows_that_count() is inner
        assert rows_that_count() is outer
        with pytest.raises(KeyError), counting(inner):
            raise KeyError
        assert rows_that_count() is outer
        with counting(None):
            assert rows_that_count() is None
    assert rows_that_count() is None
