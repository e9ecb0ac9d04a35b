"""Activation functions, and the one place that knows them by name.

Shape letters: ``B`` rows (candidates, or pairs of a candidate and a step), ``H`` neurons.
"""

from typing import Any, Literal, assert_never

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        norm = self.normalization
        if not (self.training and torch.is_grad_enabled() and s.shape[0] > 1):
            p = torch.sigmoid(norm(s))
            return s * torch.addcmul(self.alpha, 1 - self.alpha, p)  # s (alpha + (1 - alpha) p)
        norm.count_batch()
        activated: Tensor = _DiceOfBatch.apply(  # type: ignore[no-untyped-call]
            s.to(self.alpha.dtype),
            self.alpha,
            norm.running_mean,
            norm.running_var,
            norm.momentum,
            norm.eps,
        )
        return activated


class _DiceOfBatch(torch.autograd.Function):
    r"""Dice by the statistics of the batch, with its gradient in closed form.

    With :math:`g` the gradient of the output, :math:`p = \sigma(\hat s)` and :math:`\hat s` the
    normalised input,

    .. math::
        d\alpha = \sum g s (1 - p), \qquad d\hat s = (1 - \alpha)\, g s\, p (1 - p)

    and :math:`ds` is :math:`g (\alpha + (1 - \alpha) p)` plus what batch normalisation makes of
    :math:`d\hat s`. Only ``s`` and ``p`` are kept, and half as many passes are made over them.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        s: Tensor,
        alpha: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        normal, mean, inverse_std = torch.native_batch_norm(
            s, None, None, running_mean, running_var, training=True, momentum=momentum, eps=eps
        )
        p = normal.sigmoid_()
        ctx.save_for_backward(s, p, alpha, mean, inverse_std)
        ctx.eps = eps
        return torch.addcmul(alpha, 1 - alpha, p).mul_(s)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        s, p, alpha, mean, inverse_std = ctx.saved_tensors
        product = gradient * s
        of_alpha = torch.addcmul(product, product, p, value=-1).sum(dim=0)
        of_normal = torch.ops.aten.sigmoid_backward(product, p)  # product p (1 - p)
        of_s, _, _ = torch.ops.aten.native_batch_norm_backward(
            of_normal,
            s,
            1 - alpha,
            None,
            None,
            mean,
            inverse_std,
            train=True,
            eps=ctx.eps,
            output_mask=[True, False, False],
        )
        of_s.addcmul_(torch.addcmul(alpha, 1 - alpha, p), gradient)
        return of_s, of_alpha, None, None, None, None


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
