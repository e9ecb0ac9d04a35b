import pytest
import torch

from finerank.nn.pooling import MeanPooling, SumPooling

OFFSETS = torch.tensor([0, 2, 2, 5, 6])
VALUES = torch.tensor([[1.0, 2.0], [4.0, -8.0], [3.0, 5.0], [6.0, 7.0], [9.0, 0.0], [-5.0, 11.0]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (SumPooling, [[5.0, -6.0], [0.0, 0.0], [18.0, 12.0], [-5.0, 11.0]]),
        (MeanPooling, [[2.5, -3.0], [0.0, 0.0], [6.0, 4.0], [-5.0, 11.0]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_by_hand(pooling, expected, dtype):
    pooled = pooling(2)(VALUES, OFFSETS.to(dtype))
    assert pooled.tolist() == expected
    assert pooled.dtype == torch.float32


@pytest.mark.parametrize("pooling", [SumPooling, MeanPooling])
def test_gradients(pooling, check_gradients):
    values = VALUES.double().requires_grad_()
    module = pooling(2)
    check_gradients(module, lambda: module(values, OFFSETS), values)


@pytest.mark.parametrize("pooling", [SumPooling, MeanPooling])
@pytest.mark.parametrize("num_requests", [0, 1, 3])
def test_no_step_at_all(pooling, num_requests):
    values = torch.zeros(0, 2, requires_grad=True)
    pooled = pooling(2)(values, torch.zeros(num_requests + 1, dtype=torch.int64))
    assert pooled.tolist() == [[0.0, 0.0]] * num_requests
    pooled.sum().backward()
    assert values.grad.shape == (0, 2)
    assert pooling(2).output_dim == 2
