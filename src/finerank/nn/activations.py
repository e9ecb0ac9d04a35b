"""Activation functions, and the one place that knows them by name.

Shape letters: ``B`` rows (candidates, or pairs of a candidate and a step), ``H`` neurons.
"""

from typing import Any, Literal, assert_never

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finerank.nn import host
from finerank.nn.filled import rows_that_count
from finerank.nn.normalization import BatchNorm

_PART = 2**18  # numbers of the rows that are worked on together: 1 MiB
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
            s.to(self.alpha.dtype), self.alpha, norm, rows_that_count()
        )
        return activated


class _DiceOfBatch(torch.autograd.Function):
    r"""Dice by the statistics of the batch, with its gradient in closed form.

    With :math:`g` the gradient of the output, :math:`p = \sigma(\hat s)` and :math:`\hat s` the
    normalised input,

    .. math::
        d\alpha = \sum g s (1 - p), \qquad d\hat s = (1 - \alpha)\, g s\, p (1 - p)

    and with :math:`\sigma` the standard deviation, sums and means over the ``B`` rows,

    .. math::
        ds = g (\alpha + (1 - \alpha) p) + \frac{1}{\sigma}
            \left(d\hat s - \overline{d\hat s} - \hat s\, \overline{d\hat s\, \hat s}\right)

    Only ``s`` and ``p`` are kept. Parts of the rows are worked on that stay in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        s: Tensor,
        alpha: Tensor,
        norm: BatchNorm,
        count: Tensor | None,
    ) -> Tensor:
        normal, mean, inverse_std, mask = _normal(s, norm, count)
        p = normal.sigmoid_()
        ctx.save_for_backward(s, p, alpha, mean, inverse_std, mask, count)
        # Not in place: compiled by torch 2.11, what an in-place operation returns has no gradient.
        return torch.addcmul(alpha, 1 - alpha, p) * s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        s, p, alpha, mean, inverse_std, mask, count = ctx.saved_tensors
        beta, rows = 1 - alpha, s.shape[0] if count is None else count
        of_alpha, total, along = (torch.zeros_like(alpha) for _ in range(3))
        of_s = torch.empty_like(s)
        size = max(1, _PART // s.shape[1]) if host.is_readable(s) else s.shape[0]
        parts = list(zip(*(each.split(size) for each in (of_s, gradient, s, p)), strict=True))
        for of_normal, g, s_part, p_part in parts:  # of_normal without its factor beta
            product = g * s_part
            torch.mul(product, p_part, out=of_normal)
            of_alpha += product.sub_(of_normal).sum(dim=0)
            of_normal.addcmul_(of_normal, p_part, value=-1)
            total += of_normal.sum(dim=0)
            along += torch.sub(s_part, mean, out=product).mul_(of_normal).sum(dim=0)
        scale = beta * inverse_std
        slope = scale * inverse_std.square() * along / rows
        constant = mean * slope - scale * total / rows
        for of_part, g, s_part, p_part in parts:
            of_part.mul_(scale).add_(constant).addcmul_(s_part, slope, value=-1)
            if mask is not None:  # then there is one part
                of_part.mul_(mask)
            of_part.addcmul_(torch.addcmul(alpha, beta, p_part), g)
        return of_s, of_alpha, None, None


def _normal(
    s: Tensor, norm: BatchNorm, count: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The normalised rows, mean and inverse deviation of the batch, and which rows count."""
    if count is None:
        assert norm.momentum is not None
        normal, mean, inverse_std = torch.native_batch_norm(
            s,
            None,
            None,
            norm.running_mean,
            norm.running_var,
            training=True,
            momentum=norm.momentum,
            eps=norm.eps,
        )
        return normal, mean, inverse_std, None
    return norm.by_rows_that_count(s, count)


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
