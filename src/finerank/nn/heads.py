"""From one vector a candidate to one logit a task.

Every head is called alike: with the vectors, and with the requests' own vectors, which gates may
read. Shape letters: ``B`` candidates, ``R`` requests, ``W`` input width, ``Wr`` a request's width,
``E`` experts, ``T`` tasks, ``G`` gates, ``H`` expert width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finerank.nn.activations import ActivationName
from finerank.nn.joined import Rows, whole
from finerank.nn.linear import Linear
from finerank.nn.mixture import Experts, Towers, mix, mix_by_logits
from finerank.nn.mlp import MLP
from finerank.nn.stacked import StackedLinear, StackedMLP


class LinearHead(Linear):
    """One linear map a task; a bias a task where the input is empty.

    Shape:
        - input: ``(B, W)``; output: ``(B, T)``.
    """

    def reset_parameters(self) -> None:
        """Start as `torch.nn.Linear` does, with a bias of 0 where there is nothing to weigh."""
        if self.in_features > 0:
            super().reset_parameters()
        else:
            nn.init.zeros_(self.bias)

    def forward(
        self,
        x: Rows,
        request: Rows | None = None,  # noqa: ARG002  (heads are called alike)
        request_of_candidate: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return the logits ``(B, T)``."""
        return super().forward(x)


class SharedBottomHead(nn.Module):
    """One MLP that all tasks share, then one tower a task.

    Shape:
        - input: ``(B, W)``; output: ``(B, T)``.

    Source:
        Caruana, Multitask Learning, Machine Learning 28, 1997; figure 1 (a) of
        doi:10.1145/3219819.3220007.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        num_tasks: int,
        bottom_units: Sequence[int],
        tower_units: Sequence[int],
        activation: ActivationName = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.bottom = MLP(input_dim, bottom_units, activation=activation, dropout=dropout)
        self.towers = Towers(
            self.bottom.output_dim,
            tower_units,
            num_tasks=num_tasks,
            activation=activation,
            dropout=dropout,
        )

    def forward(
        self,
        x: Rows,
        request: Rows,  # noqa: ARG002  (heads are called alike)
        request_of_candidate: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """Return the logits ``(B, T)``."""
        shared = self.bottom(x).unsqueeze(1)  # (B, 1, H)
        logits: Tensor = self.towers(shared)
        return logits


class MixtureHead(nn.Module):
    r"""Experts that all tasks share, mixed by gates, then one tower a task.

    .. math:: y_t = h_t\Big(\sum_e g_t(x)_e\, f_e(x)\Big)

    With one gate a task it is MMoE, with one gate for all the one-gate mixture (OMoE).

    Shape:
        - input: ``(B, W)``; output: ``(B, T)``.

    Source:
        Ma et al., KDD 2018, doi:10.1145/3219819.3220007, eqs. (5) to (7).
    """

    def __init__(
        self,
        input_dim: int,
        *,
        num_tasks: int,
        num_experts: int,
        expert_units: Sequence[int],
        tower_units: Sequence[int],
        one_gate: bool = False,
        request_dim: int | None = None,
        activation: ActivationName = "relu",
        dropout: float = 0.0,
    ) -> None:
        """Build the experts, gates and towers.

        Args:
            input_dim: The input's width ``W``.
            num_tasks: How many tasks ``T``.
            num_experts: How many experts ``E``.
            expert_units: The widths of an expert's layers.
            tower_units: The widths of a tower's layers.
            one_gate: Whether all tasks share one gate.
            request_dim: A request's width ``Wr``, where the gates read the request only; they
                read the experts' input where left out.
            activation: The name of every hidden layer's activation.
            dropout: The share of hidden outputs dropped in training.
        """
        super().__init__()
        self.num_tasks, self.reads_request = num_tasks, request_dim is not None
        self.experts = Experts(
            input_dim, expert_units, num_experts=num_experts, activation=activation, dropout=dropout
        )
        gate_dim = input_dim if request_dim is None else request_dim
        num_gates = 1 if one_gate else num_tasks
        self.gate_logits = StackedLinear(num_gates, gate_dim, num_experts, bias=False)
        self.towers = Towers(
            self.experts.output_dim,
            tower_units,
            num_tasks=num_tasks,
            activation=activation,
            dropout=dropout,
        )

    def forward(self, x: Rows, request: Rows, request_of_candidate: Tensor) -> Tensor:
        """Return the logits ``(B, T)``."""
        gates = self._gates(x, request, request_of_candidate)  # (B, G, E)
        logits: Tensor = self.towers(mix_by_logits(self.experts(x), gates))
        return logits

    def gates(self, x: Rows, request: Rows, request_of_candidate: Tensor) -> Tensor:
        """Return the experts' shares in each task ``(B, T, E)``, each row summing to 1."""
        gates = self._gates(x, request, request_of_candidate)
        return torch.softmax(gates, dim=2).expand(-1, self.num_tasks, -1)

    def _gates(self, x: Rows, request: Rows, request_of_candidate: Tensor) -> Tensor:
        """What the gates' shares are the softmax of ``(B, G, E)``."""
        gates = self.gate_logits.shared(request if self.reads_request else x)
        return gates.index_select(0, request_of_candidate) if self.reads_request else gates


class ProgressiveHead(nn.Module):
    r"""Progressive layered extraction: experts of each task beside shared ones, level on level.

    At each level a task's gate mixes its own experts and the shared ones; a shared gate, at all
    levels but the last, mixes all. The next level's experts read the mixture of their own group.

    Shape:
        - input: ``(B, W)``; output: ``(B, T)``.

    Source:
        Tang et al., Progressive Layered Extraction (PLE), RecSys 2020,
        doi:10.1145/3383313.3412236, section 4.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        num_tasks: int,
        num_levels: int,
        task_experts: int,
        shared_experts: int,
        expert_units: Sequence[int],
        tower_units: Sequence[int],
        activation: ActivationName = "relu",
        dropout: float = 0.0,
    ) -> None:
        """Build the levels and the towers.

        Args:
            input_dim: The input's width ``W``.
            num_tasks: How many tasks ``T``.
            num_levels: How many levels of experts.
            task_experts: How many experts each task has of its own.
            shared_experts: How many experts all tasks share.
            expert_units: The widths of an expert's layers.
            tower_units: The widths of a tower's layers.
            activation: The name of every hidden layer's activation.
            dropout: The share of hidden outputs dropped in training.
        """
        super().__init__()
        self.num_tasks = num_tasks
        group = torch.arange(num_tasks).repeat_interleave(task_experts)
        group = torch.cat([group, torch.full((shared_experts,), num_tasks)])  # (E,)
        self.group_of_expert: Tensor
        self.register_buffer("group_of_expert", group, persistent=False)
        self.experts, self.gate_of_level = nn.ModuleList(), nn.ModuleList()
        width = input_dim
        for level in range(num_levels):
            experts = StackedMLP(
                len(group), width, expert_units, activation=activation, dropout=dropout
            )
            num_gates = num_tasks + (level < num_levels - 1)
            self.experts.append(experts)
            self.gate_of_level.append(StackedLinear(num_gates, width, len(group), bias=False))
            width = experts.output_dim
        self.towers = Towers(
            width, tower_units, num_tasks=num_tasks, activation=activation, dropout=dropout
        )

    def forward(
        self,
        x: Rows,
        request: Rows,  # noqa: ARG002  (heads are called alike)
        request_of_candidate: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """Return the logits ``(B, T)``."""
        logits: Tensor = self.towers(self._extract(whole(x))[0])
        return logits

    def gates(
        self,
        x: Rows,
        request: Rows,  # noqa: ARG002  (heads are called alike)
        request_of_candidate: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """Return the last level's shares ``(B, T, E)``; 0 for other tasks' experts."""
        return self._extract(whole(x))[1]

    def _extract(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The tasks' mixtures ``(B, T, H)`` after the last level, and its gates ``(B, T, E)``."""
        group_of_expert = self.group_of_expert
        groups = x.unsqueeze(1).expand(-1, self.num_tasks + 1, -1)  # (B, T + 1, W)
        for experts, gate_logits in zip(self.experts, self.gate_of_level, strict=True):
            outputs = experts(groups.index_select(1, group_of_expert))  # (B, E, H)
            logits = gate_logits(groups[:, : gate_logits.num_members])  # (B, G, E)
            gate = torch.arange(logits.shape[1], device=x.device).unsqueeze(1)
            foreign = (group_of_expert != gate) & (group_of_expert < self.num_tasks)
            foreign &= gate < self.num_tasks  # the shared gate reads every expert
            gates = logits.masked_fill(foreign, float("-inf")).softmax(dim=2)
            groups = mix(outputs, gates)
        return groups, gates
