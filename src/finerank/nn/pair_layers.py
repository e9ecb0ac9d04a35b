"""Layers of an MLP over pairs as the compiled functions take them, and what they give back.

Shape letters: ``P`` pairs, ``I`` and ``O`` a layer's inputs and outputs, ``W`` its outputs filled
up to a multiple of 16, ``K`` shares of the pairs.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from finerank.nn.activations import Dice
from finerank.nn.kernels import library
from finerank.nn.kernels.pairs import Activation
from finerank.nn.normalization import BatchNorm


class Layer(NamedTuple):
    """A linear map and the slopes of the activation behind it, which are None of a ReLU."""

    weight: Tensor
    bias: Tensor | None
    slopes: Tensor | None

    @property
    def inputs(self) -> int:
        """How many ``I``."""
        return self.weight.shape[1]

    @property
    def outputs(self) -> int:
        """How many ``O``."""
        return self.weight.shape[0]

    @property
    def width(self) -> int:
        """The outputs filled up ``W``."""
        return self.outputs + -self.outputs % library.ALIGNED

    def filled_bias(self) -> Tensor:
        """``(W,)``."""
        if self.bias is None:
            return self.weight.new_zeros(self.width)
        return filled(self.bias)


def layers_of(learned: Sequence[Tensor | None]) -> Iterator[Layer]:
    """Layers from their weights, biases and slopes, one after another."""
    for place in range(0, len(learned), 3):
        weight, bias, slopes = learned[place : place + 3]
        assert weight is not None
        yield Layer(weight.contiguous(), bias, slopes)


class Gate(NamedTuple):
    """An activation in a batch, as in C: its slopes, and of Dice the statistics ``(W,)``."""

    alpha: Tensor
    mean: Tensor | None = None
    inverse_std: Tensor | None = None
    scale: Tensor | None = None
    slope: Tensor | None = None
    constant: Tensor | None = None

    def argument(self) -> Activation:
        """As the compiled functions take it; it points into the tensors."""
        return Activation(*(library.address(each) for each in self))

    def with_sums(self, total: Tensor, along: Tensor, rows: int) -> "Gate":
        """With what the gradient through the statistics takes, as in `finerank.nn.activations`."""
        if self.mean is None or self.inverse_std is None:
            return self
        total, along = total.to(self.alpha.dtype), along.to(self.alpha.dtype)
        scale = (1 - self.alpha) * self.inverse_std
        slope = scale * self.inverse_std.square() * along / rows
        return self._replace(
            scale=scale, slope=slope, constant=self.mean * slope - scale * total / rows
        )


def gate_of(
    layer: Layer, norm: BatchNorm | None, statistics: Tensor | None, counts: Tensor
) -> Gate:
    """A layer's activation; Dice by the statistics of the batch, or else the running ones."""
    slopes = layer.slopes
    alpha = layer.weight.new_zeros(layer.width) if slopes is None else filled(slopes.detach())
    if norm is None:
        return Gate(alpha)
    if statistics is None:
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
    else:
        mean, variance = _mean_and_variance(statistics, counts)
        mean, variance = (x[: layer.outputs].to(alpha.dtype) for x in (mean, variance))
        norm.keep(mean, variance, int(counts.sum()))
    return Gate(alpha, filled(mean), filled((variance + norm.eps).rsqrt()))


def _mean_and_variance(statistics: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Of all rows ``(W,)``, from each share's mean and sum of squares about it ``(K, 2, W)``."""
    means, squares = statistics.unbind(1)
    rows = counts.sum()
    shares = (counts / rows).to(means.dtype).unsqueeze(1)  # (K, 1)
    mean = (shares * means).sum(dim=0)
    between = (shares * (means - mean).square()).sum(dim=0)
    return mean, squares.sum(dim=0) / rows + between


def slopes_of(activation: nn.Module) -> Tensor | None:
    """What an activation learns; None: a ReLU, which learns nothing."""
    match activation:
        case Dice():
            return activation.alpha
        case nn.PReLU():
            return activation.weight
        case _:
            return None


def filled(x: Tensor) -> Tensor:
    """With zeros up to an aligned width."""
    more = -x.shape[-1] % library.ALIGNED
    return (functional.pad(x, (0, more)) if more else x).contiguous()


def gradients_of(
    layer: Layer, of_slopes: Tensor, of_bias: Tensor, of_weight: Tensor
) -> Iterator[Tensor | None]:
    """The gradients of what a layer learns, last first."""
    dtype, outputs = layer.weight.dtype, layer.outputs
    yield None if layer.slopes is None else of_slopes[:outputs].to(dtype)
    yield None if layer.bias is None else of_bias[:outputs].to(dtype)
    yield of_weight[:outputs].to(dtype)
