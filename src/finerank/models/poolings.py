"""How each history becomes one vector, as an option of any model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import BeforeValidator, ConfigDict, Field

from finerank.data.schema import Schema
from finerank.models.inputs import Inputs
from finerank.models.options import SomeUnits, with_kind
from finerank.nn.activations import ActivationName
from finerank.nn.pooling import MeanPooling, SumPooling
from finerank.nn.target_attention import TargetAttention

PoolingBlock: TypeAlias = MeanPooling | SumPooling | TargetAttention
PoolingName = Literal["mean", "sum", "target_attention"]
OTHERS = "*"


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of the steps, once a request."""

    kind: Literal["mean"] = "mean"
    __pydantic_config__ = ConfigDict(extra="forbid")

    def build(self, inputs: Inputs, history: str) -> PoolingBlock:
        """The block for a history."""
        return MeanPooling(inputs.step_dim(history))


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The sum of the steps, once a request."""

    kind: Literal["sum"] = "sum"
    __pydantic_config__ = ConfigDict(extra="forbid")

    def build(self, inputs: Inputs, history: str) -> PoolingBlock:
        """The block for a history."""
        return SumPooling(inputs.step_dim(history))


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The sum of the steps, weighted by their relevance to each candidate.

    Attributes:
        hidden_units: the widths of the attention's hidden layers.
        activation: their activation.
        softmax: whether the weights of a history are made to sum to 1.
    """

    kind: Literal["target_attention"] = "target_attention"
    hidden_units: SomeUnits = (80, 40)
    activation: ActivationName = "dice"
    softmax: bool = False
    __pydantic_config__ = ConfigDict(extra="forbid")

    def build(self, inputs: Inputs, history: str) -> PoolingBlock:
        """The block for a history."""
        return TargetAttention(
            inputs.target_dim(history),
            step_dim=inputs.step_dim(history),
            hidden_units=self.hidden_units,
            activation=self.activation,
            softmax=self.softmax,
        )


Pooling: TypeAlias = Mean | Sum | Attention


def _by_history(option: object) -> object:
    """One pooling for all, or one a history, in the long form of either."""
    if isinstance(option, Mapping) and "kind" not in option:
        return {name: with_kind(each) for name, each in option.items()}
    return {OTHERS: with_kind(option)}


PoolingOption: TypeAlias = Annotated[
    Mapping[str, Annotated[Pooling, Field(discriminator="kind")]] | Pooling | PoolingName,
    BeforeValidator(_by_history),
]


def build_poolings(
    schema: Schema, inputs: Inputs, option: Mapping[str, Pooling] | Pooling | PoolingName
) -> dict[str, PoolingBlock]:
    """A block for each history.

    Args:
        schema: names the histories.
        inputs: knows how wide their steps are.
        option: one pooling or its name for all; or by history, ``*`` for those not named.

    Raises:
        ValueError: a history that isn't named, or a name that no history has.
    """
    kinds: dict[str, Pooling] = {"mean": Mean(), "sum": Sum(), "target_attention": Attention()}
    assert set(kinds) == set(get_args(PoolingName))
    by_history: Mapping[str, Pooling | PoolingName] = (
        option if isinstance(option, Mapping) else {OTHERS: option}
    )
    names = {history.name for history in schema.histories}
    if (unknown := set(by_history) - names - {OTHERS}) or (
        OTHERS not in by_history and (unknown := names - set(by_history))
    ):
        msg = f"expected pooling for the histories {sorted(names)}, found {sorted(by_history)}"
        raise ValueError(f"{msg}: {sorted(unknown)}")
    blocks = {}
    for name in sorted(names):
        chosen = by_history[name if name in by_history else OTHERS]
        spec = kinds[chosen] if isinstance(chosen, str) else chosen
        blocks[name] = spec.build(inputs, name)
    return blocks
