"""Cross networks: products of features, of one degree more with each layer.

Shape letters: ``B`` rows (candidates), ``W`` the input's width, ``L`` layers, ``K`` low rank.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finerank.nn.kernels import library
from finerank.nn.kernels.cross import CrossOf
from finerank.nn.linear import Linear
from finerank.nn.products import linear

_FEWEST = 64  # rows of a share


class CrossNetwork(nn.Module):
    r"""Cross the input with itself, each layer's weight a vector.

    .. math:: x_{l+1} = x_0\, (x_l^\top w_l) + b_l + x_l

    The weights start small enough, within :math:`\pm 1 / \sqrt{W}`, that a unit-sized input
    stays about that size through the layers.

    Every layer's output is the input times one number a row, plus a constant:

    .. math::
        x_l = a_l x_0 + c_l, \qquad a_{l+1} = a_l + a_l\, (x_0^\top w_l) + c_l^\top w_l,
        \qquad c_{l+1} = c_l + b_l

    from :math:`a_0 = 1` and :math:`c_0 = 0`, so the layers between are not computed: all
    :math:`x_0^\top w_l` are one product, and :math:`a` is worked out on one number a row.

    Shape:
        - input and output: ``(B, W)``.

    Source:
        Wang et al., Deep & Cross Network for Ad Click Predictions, ADKDD 2017,
        arXiv:1708.05123, eq. (3).
    """

    def __init__(self, dim: int, *, num_layers: int) -> None:
        super().__init__()
        self.output_dim = dim
        bound = 1 / sqrt(dim)
        self.weight = nn.Parameter(torch.empty(num_layers, dim).uniform_(-bound, bound))  # (L, W)
        self.bias = nn.Parameter(torch.zeros(num_layers, dim))  # (L, W)

    def forward(self, x: Tensor) -> Tensor:
        """Return the crossed rows ``(B, W)``."""
        constants = self.bias.cumsum(dim=0)  # (L, W), after each layer
        before = functional.pad(constants[:-1], (0, 0, 1, 0))
        of_constant = (before * self.weight).sum(dim=1)  # (L,)
        if library.serves(x, self.weight) and x.shape == (len(x), self.output_dim):
            return _crossed(x, self.weight, of_constant, constants[-1])
        scale = x.new_ones(x.shape[0])  # (B,)
        for of_input, shift in zip((linear(x, self.weight)).unbind(1), of_constant, strict=True):
            scale = scale + scale * of_input + shift
        return torch.addcmul(constants[-1], x, scale.unsqueeze(1))


def _crossed(x: Tensor, weight: Tensor, of_constant: Tensor, constant: Tensor) -> Tensor:
    """The crossed rows ``(B, W)`` by compiled functions, see ``kernels/cross.c``."""
    output: Tensor = _Crossed.apply(x, weight, of_constant, constant)  # type: ignore[no-untyped-call]
    return output


class _Crossed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        of_constant: Tensor,
        constant: Tensor,
    ) -> Tensor:
        x, weight, of_constant = x.contiguous(), weight.contiguous(), of_constant.contiguous()
        products = x.new_empty(len(x), len(weight))
        output, work = torch.empty_like(x), _work(x, weight, of_constant)
        library.call("cross_forward", work, constant.contiguous(), products, output)
        ctx.save_for_backward(x, weight, of_constant, products)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        x, weight, of_constant, products = ctx.saved_tensors
        gradient, work = gradient.contiguous(), _work(x, weight, of_constant)
        of_x = torch.empty_like(x)
        of_weight = x.new_empty(work.shares, *weight.shape)
        of_shift = x.new_empty(work.shares, len(weight))
        library.call("cross_backward", work, products, gradient, of_x, of_weight, of_shift)
        return of_x, library.added_up(of_weight), library.added_up(of_shift), gradient.sum(dim=0)


def _work(x: Tensor, weight: Tensor, of_constant: Tensor) -> CrossOf:
    """The argument of the functions; it points into the tensors."""
    shares = library.shares_of(len(x), fewest=_FEWEST)
    return library.filled(CrossOf, shares, *x.shape, len(weight), x, weight, of_constant)


class CrossNetworkV2(nn.Module):
    r"""Cross the input with itself, each layer's weight a matrix.

    .. math:: x_{l+1} = x_0 \odot (W_l x_l + b_l) + x_l

    With a low rank :math:`W_l = U_l V_l^\top`, where ``U`` and ``V`` are ``(W, K)``.

    Shape:
        - input and output: ``(B, W)``.

    Source:
        Wang et al., DCN V2, WWW 2021, arXiv:2008.13535, eqs. (1) and (2).
    """

    def __init__(self, dim: int, *, num_layers: int, low_rank: int | None = None) -> None:
        """Build the layers.

        Args:
            dim: The input's width ``W``.
            num_layers: How many crosses, so that degrees up to ``num_layers + 1`` appear.
            low_rank: The rank ``K`` of each layer's matrix; a full matrix where left out.
        """
        super().__init__()
        self.output_dim = dim
        self.layers = nn.ModuleList(_matrix(dim, low_rank) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return the crossed rows ``(B, W)``."""
        crossed = x
        for layer in self.layers:
            crossed = x * layer(crossed) + crossed
        return crossed


def _matrix(dim: int, low_rank: int | None) -> nn.Module:
    if low_rank is None:
        return Linear(dim, dim)
    return nn.Sequential(Linear(dim, low_rank, bias=False), Linear(low_rank, dim))
