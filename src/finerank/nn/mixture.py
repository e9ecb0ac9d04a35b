"""Mixtures of experts for several tasks: experts, gates, and the tasks' towers.

Shape letters: ``B`` rows (candidates), ``I`` input width, ``E`` experts, ``T`` tasks, ``G`` gates,
``H`` hidden width of an expert or a tower's input.

Source: Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts, KDD 2018, doi:10.1145/3219819.3220007, eqs. (5) to (7).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finerank.nn.activations import ActivationName
from finerank.nn.joined import Rows
from finerank.nn.products import bmm
from finerank.nn.stacked import StackedLinear, StackedMLP


class Experts(nn.Module):
    """Read the same input with several MLPs of one shape, each with its own weights.

    Shape:
        - input: ``(B, I)``.
        - output: ``(B, E, H)``, with ``H = output_dim``.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_units: Sequence[int],
        *,
        num_experts: int,
        activation: ActivationName = "relu",
        dropout: float = 0.0,
    ) -> None:
        """Build the experts.

        Args:
            input_dim: The input's width ``I``.
            hidden_units: The widths of each expert's layers, at least one.
            num_experts: How many experts ``E``.
            activation: The name of every layer's activation.
            dropout: The share of outputs dropped in training, from 0 up to but not 1.

        Raises:
            ValueError: There is no hidden layer, so the experts would all be the same.
        """
        super().__init__()
        if not hidden_units:
            raise ValueError("expected at least one hidden layer in the experts, found none")
        self.mlps = StackedMLP(
            num_experts, input_dim, hidden_units, activation=activation, dropout=dropout
        )
        self.output_dim = self.mlps.output_dim

    def forward(self, x: Rows) -> Tensor:
        """Return each expert's output ``(B, E, H)``."""
        return self.mlps.shared(x)


class Gates(nn.Module):
    r"""Say how much each expert counts for each row, one gate for each use of the experts.

    .. math:: g_k(x) = \mathrm{softmax}(W_k x)

    Shape:
        - input: ``(B, I)``.
        - output: ``(B, G, E)``, at least 0, each row of a gate summing to 1.
    """

    def __init__(self, input_dim: int, num_experts: int, *, num_gates: int) -> None:
        super().__init__()
        self.output_dim = num_experts
        self.linear = StackedLinear(num_gates, input_dim, num_experts, bias=False)

    def forward(self, x: Rows) -> Tensor:
        """Return the experts' shares ``(B, G, E)``."""
        return torch.softmax(self.linear.shared(x), dim=2)


def mix(experts: Tensor, gates: Tensor) -> Tensor:
    r"""Return each task's mixture of the experts ``(B, T, H)``.

    .. math:: f_t(x) = \sum_e g_t(x)_e\, f_e(x)

    Args:
        experts: The experts' outputs ``(B, E, H)``.
        gates: The experts' shares in each task ``(B, T, E)``.
    """
    return bmm(gates, experts)


class Towers(nn.Module):
    """Turn each task's input into its logit, with an MLP of its own.

    Shape:
        - input: ``(B, T, H)``; ``(B, 1, H)`` is shared by all tasks.
        - output: logits ``(B, T)``.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_units: Sequence[int],
        *,
        num_tasks: int,
        activation: ActivationName = "relu",
        dropout: float = 0.0,
    ) -> None:
        """Build the towers.

        Args:
            input_dim: The input's width ``H``.
            hidden_units: The widths of each tower's layers; a linear map where there are none.
            num_tasks: How many towers ``T``.
            activation: The name of every hidden layer's activation.
            dropout: The share of outputs dropped in training, from 0 up to but not 1.
        """
        super().__init__()
        self.mlps = StackedMLP(
            num_tasks, input_dim, hidden_units, activation=activation, dropout=dropout
        )
        self.logit = StackedLinear(num_tasks, self.mlps.output_dim, 1)
        self.output_dim = num_tasks

    def forward(self, x: Tensor) -> Tensor:
        """Return the tasks' logits ``(B, T)``."""
        logits: Tensor = self.logit(self.mlps(x))  # (B, T, 1)
        return logits.squeeze(2)
