"""Mixtures of experts for several tasks: experts, gates, and the tasks' towers.

Shape letters: ``B`` rows (candidates), ``I`` input width, ``E`` experts, ``T`` tasks, ``H`` hidden
width of an expert or a tower's input.

Source: Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts, KDD 2018, doi:10.1145/3219819.3220007, eqs. (5) to (7).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finerank.nn.activations import ActivationName
from finerank.nn.joined import Rows
from finerank.nn.kernels import library
from finerank.nn.kernels.mixture import MixtureOf
from finerank.nn.products import bmm
from finerank.nn.stacked import StackedLinear, StackedMLP

_FEWEST = 64  # rows of a share


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


def mix(experts: Tensor, gates: Tensor) -> Tensor:
    r"""Return each task's mixture of the experts ``(B, T, H)``.

    .. math:: f_t(x) = \sum_e g_t(x)_e\, f_e(x)

    Args:
        experts: The experts' outputs ``(B, E, H)``.
        gates: The experts' shares in each task ``(B, T, E)``.
    """
    return bmm(gates, experts)


def mix_by_logits(experts: Tensor, logits: Tensor) -> Tensor:
    """Return each task's mixture of the experts ``(B, T, H)`` by what their shares come from.

    Args:
        experts: The experts' outputs ``(B, E, H)``.
        logits: The experts' shares are the softmax of these in each task ``(B, T, E)``.
    """
    logits = logits.to(experts.dtype)
    rows, members, width = experts.shape
    fitting = logits.shape == (rows, logits.shape[1], members) and width % library.ALIGNED == 0
    if not fitting or not library.serves(experts, logits):
        return mix(experts, torch.softmax(logits, dim=2))
    mixed: Tensor = _Mixed.apply(experts, logits)  # type: ignore[no-untyped-call]
    return mixed


class _Mixed(torch.autograd.Function):
    """By compiled functions, see ``kernels/mixture.c``."""

    @staticmethod
    def forward(ctx: Any, experts: Tensor, logits: Tensor) -> Tensor:  # noqa: ANN401
        experts, logits = experts.contiguous(), logits.contiguous()
        shares = torch.empty_like(logits)
        mixed = experts.new_empty(*logits.shape[:2], experts.shape[2])
        library.call("mixture_forward", _work(experts, logits), logits, shares, mixed)
        ctx.save_for_backward(experts, shares)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        experts, shares = ctx.saved_tensors
        of_experts, of_logits = torch.empty_like(experts), torch.empty_like(shares)
        work = _work(experts, shares)
        gradient = gradient.contiguous()
        library.call("mixture_backward", work, shares, gradient, of_logits, of_experts)
        return of_experts, of_logits


def _work(experts: Tensor, logits: Tensor) -> MixtureOf:
    """The argument of the functions; it points into the tensors."""
    rows, gates, members = logits.shape
    shares = library.shares_of(rows, fewest=_FEWEST)
    return library.filled(MixtureOf, shares, rows, gates, members, experts.shape[2], experts)


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
