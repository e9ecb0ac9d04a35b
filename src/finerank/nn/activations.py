"""Activation functions, and the one place that knows them by name.

Shape letters: ``B`` rows (candidates, or pairs of a candidate and a step), ``H`` neurons.
"""

from typing import Literal, assert_never

import torch
from torch import Tensor, nn

from finerank.nn.normalization import BatchNorm

ActivationName = Literal["relu", "prelu", "dice", "silu", "gelu"]


class Dice(nn.Module):
    r"""Gate each neuron smoothly at the mean of its inputs: a PReLU that adapts to the data.

    .. math::
        f(s) = p(s)\, s + (1 - p(s))\, \alpha s, \qquad
        p(s) = \sigma\left(\frac{s - E[s]}{\sqrt{Var[s] + \epsilon}}\right)

    Mean and variance are each neuron's own: over the rows of the batch in training (the biased
    variance), where gradients flow through them, and running averages after (of the unbiased
    variance, as in `torch.nn.BatchNorm1d`). They have no learned scale or shift; :math:`\alpha` is
    learned for each neuron. A training batch of fewer than two rows uses the running averages and
    leaves them as they are.

    Shape:
        - input and output: ``(B, H)``.

    Source:
        Zhou et al., Deep Interest Network, KDD 2018, arXiv:1706.06978, section 5.2, with its
        :math:`\epsilon = 10^{-8}`. :math:`\alpha` starts at 0 as in the authors' code.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.normalization = BatchNorm(dim, eps=1e-8, affine=False)
        self.alpha = nn.Parameter(torch.zeros(dim))

    def forward(self, s: Tensor) -> Tensor:
        """Return the activated rows ``(B, H)``."""
        p = torch.sigmoid(self.normalization(s))
        return s * torch.addcmul(self.alpha, 1 - self.alpha, p)  # s (alpha + (1 - alpha) p)


def activation(name: ActivationName, dim: int) -> nn.Module:
    """Return a new activation for rows of ``dim`` neurons.

    Args:
        name: Which one.
        dim: The number of neurons, each with its own slope in ``prelu`` and ``dice``.
    """
    match name:
        case "relu":
            return nn.ReLU()
        case "prelu":
            return nn.PReLU(dim)
        case "dice":
            return Dice(dim)
        case "silu":
            return nn.SiLU()
        case "gelu":
            return nn.GELU()
        case _:
            assert_never(name)
