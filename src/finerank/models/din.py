"""DIN: the user's history seen from each candidate, then an MLP."""

from finerank.data.schema import Schema
from finerank.models.dnn import DNN
from finerank.models.heads import HeadOption
from finerank.models.options import Share, Size, SomeUnits, Units
from finerank.models.poolings import Attention
from finerank.nn.activations import ActivationName
from finerank.nn.mlp import NormalizationName


class DIN(DNN):
    """Deep Interest Network: each history summed with weights that depend on the candidate.

    It is the `DNN` with target attention in the place of the mean, and Dice in that of ReLU.

    Source:
        Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018,
        arXiv:1706.06978.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: Size = 16,
        hidden_units: Units = (128, 64),
        activation: ActivationName = "dice",
        normalization: NormalizationName | None = None,
        dropout: Share = 0.0,
        attention_hidden_units: SomeUnits = (80, 40),
        attention_activation: ActivationName = "dice",
        attention_softmax: bool = False,
        head: HeadOption = "linear",
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
            head: How the MLP's output becomes one logit a task.
        """
        super().__init__(
            schema,
            embedding_dim=embedding_dim,
            hidden_units=hidden_units,
            activation=activation,
            normalization=normalization,
            dropout=dropout,
            pooling=Attention(
                hidden_units=tuple(attention_hidden_units),
                activation=attention_activation,
                softmax=attention_softmax,
            ),
            head=head,
        )
