"""Shared-Bottom: one MLP that all tasks share, then a tower a task."""

from finerank.data.schema import Schema
from finerank.models.heads import SharedBottomTowers
from finerank.models.inputs import Inputs
from finerank.models.interactions import Concatenation
from finerank.models.options import Share, Size, Units
from finerank.models.poolings import PoolingOption, build_poolings
from finerank.models.ranking_model import RankingModel
from finerank.nn.activations import ActivationName


class SharedBottom(RankingModel):
    """All tasks share an MLP; each has its tower on top.

    Source:
        Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
        Mixture-of-Experts, KDD 2018, doi:10.1145/3219819.3220007, figure 1 (a).
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: Size = 16,
        bottom_units: Units = (128, 64),
        tower_units: Units = (32,),
        activation: ActivationName = "relu",
        dropout: Share = 0.0,
        pooling: PoolingOption = "mean",
    ) -> None:
        """Build the model.

        Args:
            schema: The features, histories and tasks.
            embedding_dim: The width of every embedding.
            bottom_units: The widths of the shared MLP's layers.
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
            head=SharedBottomTowers(
                bottom_units=tuple(bottom_units),
                tower_units=tuple(tower_units),
                activation=activation,
                dropout=dropout,
            ),
        )
