"""MMoE: experts that all tasks share, mixed by one gate a task."""

from typing import Literal

from finerank.data.schema import Schema
from finerank.models.heads import Mixture
from finerank.models.inputs import Inputs
from finerank.models.interactions import Concatenation
from finerank.models.options import Share, Size, SomeUnits, Units
from finerank.models.poolings import PoolingOption, build_poolings
from finerank.models.ranking_model import RankingModel
from finerank.nn.activations import ActivationName


class MMoE(RankingModel):
    """Multi-gate mixture of experts: each task mixes the shared experts in its own way.

    Source:
        Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
        Mixture-of-Experts, KDD 2018, doi:10.1145/3219819.3220007.
    """

    _kind: Literal["mmoe", "one_gate"] = "mmoe"

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: Size = 16,
        num_experts: Size = 8,
        expert_units: SomeUnits = (64,),
        gates_read: Literal["all", "request"] = "all",
        tower_units: Units = (32,),
        activation: ActivationName = "relu",
        dropout: Share = 0.0,
        pooling: PoolingOption = "mean",
    ) -> None:
        """Build the model.

        Args:
            schema: The features, histories and tasks.
            embedding_dim: The width of every embedding.
            num_experts: How many experts.
            expert_units: The widths of an expert's layers.
            gates_read: All that the experts read, or the request's features only.
            tower_units: The widths of a tower's layers.
            activation: The activation of all hidden layers.
            dropout: The share of hidden outputs dropped in training.
            pooling: How each history becomes one vector.
        """
        inputs = Inputs(schema, embedding_dim=embedding_dim)
        super().__init__(
            inputs,
            pooling=build_poolings(schema, inputs, pooling),
            interaction=lambda request_dim, candidate_dim: Concatenation(
                request_dim + candidate_dim
            ),
            head=Mixture(
                kind=self._kind,
                num_experts=num_experts,
                expert_units=tuple(expert_units),
                gates_read=gates_read,
                tower_units=tuple(tower_units),
                activation=activation,
                dropout=dropout,
            ),
        )
