"""The loss of each task: by hand, against torch, and where labels are missing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from finerank.training.loss import UncertaintyWeights, WeightedSum, task_losses

NAN = math.nan


def test_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0], [math.log(9), 5.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, NAN], [1.0, NAN]])
    # task 1: ln 2, ln 4, ln 10/9; task 2: ln 4, the others unknown
    expected = [math.log(2 * 4 * 10 / 9) / 3, math.log(4)]
    torch.testing.assert_close(task_losses(logits, labels), torch.tensor(expected))


def test_a_missing_label_counts_for_nothing():
    logits = torch.tensor([[2.0], [7.0], [-1.0]], requires_grad=True)
    labels = torch.tensor([[1.0], [NAN], [0.0]])
    losses = task_losses(logits, labels)
    known = task_losses(logits[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(losses, known)
    losses.sum().backward()
    assert logits.grad[1] == 0
    assert (logits.grad[[0, 2]] != 0).all()


def test_a_task_without_labels_is_zero():
    logits = torch.tensor([[1.0, 2.0], [3.0, -4.0]], requires_grad=True)
    labels = torch.tensor([[NAN, 1.0], [NAN, 0.0]])
    losses = task_losses(logits, labels)
    assert losses[0] == 0
    assert losses[1] > 0
    losses.sum().backward()
    assert logits.grad[:, 0].tolist() == [0, 0]
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_logits_are_finite(dtype):
    logits = torch.tensor([[1e4], [-1e4], [1e4], [-1e4]], dtype=dtype, requires_grad=True)
    labels = torch.tensor([[0.0], [1.0], [1.0], [0.0]], dtype=dtype)
    loss = task_losses(logits, labels)
    assert loss.item() == 5000  # two are wrong by 10,000 nats, two are right
    loss.sum().backward()
    torch.testing.assert_close(
        logits.grad, (1 - 2 * labels) * torch.tensor([[1], [1], [0], [0]]) / 4
    )


@given(
    rows=st.lists(
        st.tuples(st.floats(-50, 50), st.sampled_from([0.0, 1.0, NAN])), min_size=1, max_size=20
    )
)
def test_equals_torch_on_the_known_labels(rows):
    logits, labels = torch.tensor(rows, dtype=torch.float64).T.unsqueeze(2)
    known = labels.isfinite()
    expected = (
        binary_cross_entropy_with_logits(logits[known], labels[known])
        if known.any()
        else torch.tensor(0.0, dtype=torch.float64)
    )
    torch.testing.assert_close(
        task_losses(logits, labels)[0], expected, rtol=0, atol=3e-9
    )  # softplus is cut at 20


def test_gradients():
    logits = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1, 0], [NAN, 1], [0, NAN], [1, 1], [0, 0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: task_losses(x, labels), logits)


def test_a_weighted_sum():
    losses = torch.tensor([0.5, 0.25])
    assert WeightedSum([2.0, 3.0])(losses).item() == 1.75


def test_uncertainty_weights_by_hand():
    weighting = UncertaintyWeights([2.0, 3.0, 5.0])
    with torch.no_grad():
        weighting.log_variance.copy_(torch.tensor([math.log(2), math.log(4), 1.0]))
    losses = torch.tensor([0.5, 0.25, 0.0])  # the third has no label in the batch
    expected = 2 * (0.5 / 2 + math.log(2) / 2) + 3 * (0.25 / 4 + math.log(4) / 2)
    loss = weighting(losses)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    expected = torch.tensor([2 * (0.5 - 0.5 / 2), 3 * (0.5 - 0.25 / 4), 0.0])
    torch.testing.assert_close(weighting.log_variance.grad, expected)
    assert weighting.learned() == pytest.approx([1.0, 0.75, 5 / math.e])


def test_uncertainty_settles_where_variance_is_loss():
    """For fixed losses the sum is least at log variance = log(2 L)."""
    weighting, losses = UncertaintyWeights([1.0, 1.0]), torch.tensor([0.1, 0.6])
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        weighting(losses).backward()
        optimizer.step()
    torch.testing.assert_close(weighting.log_variance.data, (2 * losses).log(), atol=1e-3, rtol=0)
