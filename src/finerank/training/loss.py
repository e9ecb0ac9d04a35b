"""What training makes small.

Shapes: ``B`` candidates, ``T`` tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def task_losses(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Mean binary cross-entropy of each task, over the candidates whose label is known.

    .. math:: \mathrm{softplus}(s) - y s

    which is finite for any finite logit, since no probability is formed.

    Args:
        logits: ``(B, T)``.
        labels: ``(B, T)``, 0 or 1, or NaN where missing: such a label adds nothing and counts
            for nothing.

    Returns:
        ``(T,)``, in nats, at least 0; 0 for a task without any known label.
    """
    known = labels.isfinite()
    losses = functional.softplus(logits) - labels.nan_to_num() * logits
    return losses.mul(known).sum(dim=0) / known.sum(dim=0).clamp(min=1)


class WeightedSum(nn.Module):
    r"""The tasks' losses as one: :math:`\sum_t w_t L_t` with fixed weights.

    Args:
        weights: one a task, above 0.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(weights))

    def forward(self, losses: Tensor) -> Tensor:
        """Return the sum; losses ``(T,)`` in nats."""
        return (self.weights * losses).sum()

    def learned(self) -> list[float]:
        """The weights."""
        return [float(weight) for weight in self.weights]


class UncertaintyWeights(WeightedSum):
    r"""The tasks' losses as one, with learned weights: the noisier a task, the lighter.

    .. math:: \sum_t w_t \left(e^{-s_t} L_t + \frac{s_t}{2}\right)

    with :math:`s_t = \log \sigma_t^2` learned from 0 and :math:`w_t` fixed. A task without any
    label in a batch stays out of the batch's sum.

    Source:
        Kendall, Gal, Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018,
        arXiv:1705.07115, eq. (10), with classification's :math:`1 / \sigma^2`.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__(weights)
        self.log_variance = nn.Parameter(torch.zeros(len(weights)))

    def forward(self, losses: Tensor) -> Tensor:
        """Return the sum; losses ``(T,)`` in nats."""
        terms = (-self.log_variance).exp() * losses + self.log_variance / 2
        return super().forward(terms * (losses.detach() > 0))

    def learned(self) -> list[float]:
        """What each task's loss is multiplied by."""
        return [float(weight) for weight in self.weights * (-self.log_variance.detach()).exp()]
