"""Several MLPs of one shape, side by side, computed together.

Shape letters: ``B`` rows (candidates), ``M`` members (experts, or tasks' towers), ``I`` inputs,
``O`` outputs, ``H`` the last hidden width.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn

from finerank.nn import compiled_linear, onednn
from finerank.nn.activations import ActivationName, activation
from finerank.nn.joined import Rows, linear
from finerank.nn.products import padded


class StackedLinear(nn.Module):
    r"""Apply to each member's input its own linear map.

    .. math:: y_m = W_m x_m + b_m

    Each map starts as `torch.nn.Linear` does.

    Shape:
        - input: ``(B, M, I)``; ``(B, 1, I)`` is shared by all members.
        - output: ``(B, M, O)``.
    """

    def __init__(
        self, num_members: int, input_dim: int, output_dim: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.num_members, self.output_dim = num_members, output_dim
        bound = 1 / sqrt(input_dim) if input_dim > 0 else 0.0
        self.weight = nn.Parameter(
            torch.empty(num_members, output_dim, input_dim).uniform_(-bound, bound)
        )  # (M, O, I)
        self.bias = (
            nn.Parameter(torch.empty(num_members, output_dim).uniform_(-bound, bound))
            if bias
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return each member's output ``(B, M, O)``."""
        if x.shape[1] == 1:
            return self.shared(x.squeeze(1))
        if compiled_linear.serves(x, self.weight):
            return compiled_linear.linear(x, self.weight, self.bias)
        members = padded(x).transpose(0, 1).expand(self.weight.shape[0], -1, -1)  # (M, B, I)
        weight = self.weight.transpose(1, 2)  # (M, I, O)
        if self.bias is None:
            outputs = torch.bmm(members, weight)
        else:
            outputs = torch.baddbmm(self.bias.unsqueeze(1), members, weight)
        return onednn.cut(outputs.transpose(0, 1), x.shape[0])

    def shared(self, x: Rows) -> Tensor:
        """Return each member's output ``(B, M, O)`` for an input ``(B, I)`` that all share."""
        bias = None if self.bias is None else self.bias.flatten()
        outputs = linear(x, self.weight.flatten(0, 1), bias)  # one product, no copies of the input
        return outputs.unflatten(1, (self.num_members, self.output_dim))


class StackedMLP(nn.Module):
    """Apply to each member's input its own layers of linear, activation and dropout.

    Every neuron of every member has its own activation parameters and statistics.

    Shape:
        - input: ``(B, M, I)``; ``(B, 1, I)`` is shared by all members.
        - output: ``(B, M, H)``, with ``H = output_dim``; the input where there are no layers.
    """

    def __init__(
        self,
        num_members: int,
        input_dim: int,
        hidden_units: Sequence[int],
        *,
        activation: ActivationName = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        dims = [input_dim, *hidden_units]
        self.output_dim = dims[-1]
        self.linears = nn.ModuleList(StackedLinear(num_members, *dim) for dim in pairwise(dims))
        self.finishes = nn.ModuleList(
            _finish(num_members, dim, activation, dropout) for dim in hidden_units
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return each member's last hidden layer ``(B, M, H)``."""
        if not self.linears:
            return x
        return compiled_linear.through(self.linears[0](x), self.linears[1:], self.finishes)

    def shared(self, x: Rows) -> Tensor:
        """Return each member's last hidden layer ``(B, M, H)`` for an input that all share.

        Args:
            x: ``(B, I)``; there is at least one layer.
        """
        first = self.linears[0]
        assert isinstance(first, StackedLinear)
        return compiled_linear.through(first.shared(x), self.linears[1:], self.finishes)


def _finish(
    num_members: int, dim: int, activation_name: ActivationName, dropout: float
) -> nn.Sequential:
    finish = nn.Sequential(
        nn.Flatten(),  # (B, M * H): a neuron is a column, as the activations expect
        activation(activation_name, num_members * dim),
        nn.Unflatten(1, (num_members, dim)),
    )
    if dropout > 0:
        finish.append(nn.Dropout(dropout))
    return finish
