"""DIN: the user's history seen from each candidate, then an MLP."""

from collections.abc import Sequence

from torch import nn

from finerank.data.schema import Schema
from finerank.models.inputs import Inputs
from finerank.models.ranking_model import MLPInteraction, RankingModel
from finerank.nn.activations import ActivationName
from finerank.nn.mlp import MLP, NormalizationName
from finerank.nn.target_attention import TargetAttention


class DIN(RankingModel):
    """Deep Interest Network: each history summed with weights that depend on the candidate.

    Source:
        Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018,
        arXiv:1706.06978.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (128, 64),
        activation: ActivationName = "dice",
        normalization: NormalizationName | None = None,
        dropout: float = 0.0,
        attention_hidden_units: Sequence[int] = (80, 40),
        attention_activation: ActivationName = "dice",
        attention_softmax: bool = False,
    ) -> None:
        """Build the model.

        Args:
            schema: The features, histories and tasks.
            embedding_dim: The width of every embedding.
            hidden_units: The widths of the MLP's layers.
            activation: The MLP's activation.
            normalization: The MLP's normalisation.
            dropout: The share of the MLP's outputs dropped in training.
            attention_hidden_units: The widths of the attention's hidden layers.
            attention_activation: Their activation.
            attention_softmax: Whether the weights of a history are made to sum to 1.
        """
        inputs = Inputs(schema, embedding_dim=embedding_dim)
        super().__init__(
            inputs,
            {
                history.name: TargetAttention(
                    inputs.target_dim(history.name),
                    step_dim=inputs.step_dim(history.name),
                    hidden_units=attention_hidden_units,
                    activation=attention_activation,
                    softmax=attention_softmax,
                )
                for history in schema.histories
            },
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
