"""Several MLPs of one shape, side by side, computed as one batched product.

Shape letters: ``B`` rows (candidates), ``M`` members (experts, or tasks' towers), ``I`` inputs,
``O`` outputs, ``H`` the last hidden width.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn

from finerank.nn import onednn
from finerank.nn.activations import ActivationName, activation
from finerank.nn.products import linear, padded, short_dtype


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
        bound = 1 / sqrt(input_dim)
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
        if x.shape[1] == 1:  # one product with all members' rows, and no copies of the input
            bias = None if self.bias is None else self.bias.flatten()
            shared = linear(x.squeeze(1), self.weight.flatten(0, 1), bias)
            return shared.unflatten(1, (self.num_members, self.output_dim))
        if short_dtype(x) is None and onednn.multiplies_members(x, self.output_dim):
            return onednn.product_of_members(x, self.weight, self.bias)
        members = padded(x).transpose(0, 1).expand(self.weight.shape[0], -1, -1)  # (M, B, I)
        weight = self.weight.transpose(1, 2)  # (M, I, O)
        if self.bias is None:
            outputs = torch.bmm(members, weight)
        else:
            outputs = torch.baddbmm(self.bias.unsqueeze(1), members, weight)
        return onednn.cut(outputs.transpose(0, 1), x.shape[0])


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
        for layer, finish in zip(self.linears, self.finishes, strict=True):
            x = finish(layer(x))
        return x


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
