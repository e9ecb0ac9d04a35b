"""DNN: embeddings beside numbers, concatenated, an MLP."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from finerank.data.schema import Schema
from finerank.models.inputs import Inputs
from finerank.models.ranking_model import MLPInteraction, RankingModel
from finerank.nn.activations import ActivationName
from finerank.nn.mlp import MLP, NormalizationName
from finerank.nn.pooling import MeanPooling, SumPooling


class DNN(RankingModel):
    """An MLP over the embeddings of the ids, the numbers, and each history's sum or mean.

    Source:
        The embedding and MLP paradigm as in Covington et al., Deep Neural Networks for YouTube
        Recommendations, RecSys 2016; the BaseModel of arXiv:1706.06978.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (128, 64),
        activation: ActivationName = "relu",
        normalization: NormalizationName | None = None,
        dropout: float = 0.0,
        pooling: Literal["mean", "sum"] = "mean",
    ) -> None:
        """Build the model.

        Args:
            schema: The features, histories and tasks.
            embedding_dim: The width of every embedding.
            hidden_units: The widths of the MLP's layers.
            activation: The MLP's activation.
            normalization: The MLP's normalisation.
            dropout: The share of the MLP's outputs dropped in training.
            pooling: How the steps of a history become one vector.
        """
        inputs = Inputs(schema, embedding_dim=embedding_dim)
        pool = MeanPooling if pooling == "mean" else SumPooling
        super().__init__(
            inputs,
            {history.name: pool(inputs.step_dim(history.name)) for history in schema.histories},
            lambda request_dim, candidate_dim: MLPInteraction(
                MLP(
                    request_dim + candidate_dim,
                    hidden_units,
                    activation=activation,
                    normalization=normalization,
                    dropout=dropout,
                )
            ),
            lambda width: nn.Linear(width, len(schema.tasks)),
        )
