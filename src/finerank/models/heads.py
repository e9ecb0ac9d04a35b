"""How one vector a candidate becomes one logit a task, as an option of any model."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field

from finerank.models.options import Share, Size, SomeUnits, Units, with_kind
from finerank.nn.activations import ActivationName
from finerank.nn.heads import LinearHead, MixtureHead, ProgressiveHead, SharedBottomHead

HeadBlock: TypeAlias = LinearHead | SharedBottomHead | MixtureHead | ProgressiveHead
HeadName = Literal["linear", "shared_bottom", "one_gate", "mmoe", "ple"]


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One linear map a task."""

    kind: Literal["linear"] = "linear"
    __pydantic_config__ = ConfigDict(extra="forbid")

    def build(self, input_dim: int, request_dim: int, num_tasks: int) -> HeadBlock:  # noqa: ARG002
        """The block for an input's and a request's width."""
        return LinearHead(input_dim, num_tasks)


@dataclass(frozen=True, kw_only=True)
class _WithTowers:
    """What heads with one tower a task have in common."""

    tower_units: Units = (32,)
    activation: ActivationName = "relu"
    dropout: Share = 0.0


@dataclass(frozen=True, kw_only=True)
class SharedBottomTowers(_WithTowers):
    """One MLP that all tasks share, then a tower a task."""

    kind: Literal["shared_bottom"] = "shared_bottom"
    bottom_units: Units = (128, 64)
    __pydantic_config__ = ConfigDict(extra="forbid")

    def build(self, input_dim: int, request_dim: int, num_tasks: int) -> HeadBlock:  # noqa: ARG002
        """The block for an input's and a request's width."""
        return SharedBottomHead(
            input_dim,
            num_tasks=num_tasks,
            bottom_units=self.bottom_units,
            tower_units=self.tower_units,
            activation=self.activation,
            dropout=self.dropout,
        )


@dataclass(frozen=True, kw_only=True)
class Mixture(_WithTowers):
    """Experts that all tasks share, mixed by one gate a task or by one for all, then towers.

    Attributes:
        gates_read: all that the experts read, or the request's features only.
    """

    kind: Literal["mmoe", "one_gate"] = "mmoe"
    num_experts: Size = 8
    expert_units: SomeUnits = (64,)
    gates_read: Literal["all", "request"] = "all"
    __pydantic_config__ = ConfigDict(extra="forbid")

    def build(self, input_dim: int, request_dim: int, num_tasks: int) -> HeadBlock:
        """The block for an input's and a request's width."""
        return MixtureHead(
            input_dim,
            num_tasks=num_tasks,
            num_experts=self.num_experts,
            expert_units=self.expert_units,
            tower_units=self.tower_units,
            one_gate=self.kind == "one_gate",
            request_dim=request_dim if self.gates_read == "request" else None,
            activation=self.activation,
            dropout=self.dropout,
        )


@dataclass(frozen=True, kw_only=True)
class Progressive(_WithTowers):
    """Experts of each task beside shared ones, level on level, then towers."""

    kind: Literal["ple"] = "ple"
    num_levels: Size = 2
    task_experts: Size = 2
    shared_experts: Size = 2
    expert_units: SomeUnits = (64,)
    __pydantic_config__ = ConfigDict(extra="forbid")

    def build(self, input_dim: int, request_dim: int, num_tasks: int) -> HeadBlock:  # noqa: ARG002
        """The block for an input's and a request's width."""
        return ProgressiveHead(
            input_dim,
            num_tasks=num_tasks,
            num_levels=self.num_levels,
            task_experts=self.task_experts,
            shared_experts=self.shared_experts,
            expert_units=self.expert_units,
            tower_units=self.tower_units,
            activation=self.activation,
            dropout=self.dropout,
        )


Head: TypeAlias = Linear | SharedBottomTowers | Mixture | Progressive


HeadOption: TypeAlias = Annotated[
    Annotated[Head, Field(discriminator="kind")] | HeadName, BeforeValidator(with_kind)
]


def as_head(option: Head | HeadName) -> Head:
    """A head's settings from its name or from themselves."""
    if not isinstance(option, str):
        return option
    if option in ("mmoe", "one_gate"):
        return Mixture(kind="mmoe" if option == "mmoe" else "one_gate")
    named: dict[str, Head] = {
        "linear": Linear(),
        "shared_bottom": SharedBottomTowers(),
        "ple": Progressive(),
    }
    return named[option]
