"""PLE: experts of each task beside shared ones, level on level."""

from finerank.data.schema import Schema
from finerank.models.heads import Progressive
from finerank.models.inputs import Inputs
from finerank.models.interactions import Concatenation
from finerank.models.options import Share, Size, SomeUnits, Units
from finerank.models.poolings import PoolingOption, build_poolings
from finerank.models.ranking_model import RankingModel
from finerank.nn.activations import ActivationName


class PLE(RankingModel):
    """Progressive layered extraction: tasks keep experts of their own beside the shared ones.

    Source:
        Tang et al., Progressive Layered Extraction, RecSys 2020, doi:10.1145/3383313.3412236.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: Size = 16,
        num_levels: Size = 2,
        task_experts: Size = 2,
        shared_experts: Size = 2,
        expert_units: SomeUnits = (64,),
        tower_units: Units = (32,),
        activation: ActivationName = "relu",
        dropout: Share = 0.0,
        pooling: PoolingOption = "mean",
    ) -> None:
        """Build the model.

        Args:
            schema: The features, histories and tasks.
            embedding_dim: The width of every embedding.
            num_levels: How many levels of experts.
            task_experts: How many experts each task has of its own.
            shared_experts: How many experts all tasks share.
            expert_units: The widths of an expert's layers.
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
            head=Progressive(
                num_levels=num_levels,
                task_experts=task_experts,
                shared_experts=shared_experts,
                expert_units=tuple(expert_units),
                tower_units=tuple(tower_units),
                activation=activation,
                dropout=dropout,
            ),
        )
