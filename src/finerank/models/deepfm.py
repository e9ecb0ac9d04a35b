"""DeepFM: a factorization machine beside an MLP, on the same embeddings."""

from finerank.data.schema import Schema
from finerank.models.heads import HeadOption, as_head
from finerank.models.inputs import Inputs
from finerank.models.interactions import deep
from finerank.models.options import Share, Size, Units
from finerank.models.poolings import PoolingOption, build_poolings
from finerank.models.ranking_model import RankingModel
from finerank.models.shortcuts import FirstOrder, SecondOrder
from finerank.nn.activations import ActivationName
from finerank.nn.mlp import NormalizationName


class DeepFM(RankingModel):
    """A factorization machine and an MLP that share their embeddings.

    Source:
        Guo et al., DeepFM, IJCAI 2017, arXiv:1703.04247.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: Size = 16,
        hidden_units: Units = (128, 64),
        activation: ActivationName = "relu",
        normalization: NormalizationName | None = None,
        dropout: Share = 0.0,
        pooling: PoolingOption = "mean",
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
            pooling: How each history becomes one vector.
            head: How the MLP's output becomes one logit a task.
        """
        inputs = Inputs(schema, embedding_dim=embedding_dim, numbers="embedded")
        super().__init__(
            inputs,
            pooling=build_poolings(schema, inputs, pooling),
            interaction=deep(
                hidden_units, activation=activation, normalization=normalization, dropout=dropout
            ),
            head=as_head(head),
            shortcuts=[FirstOrder(schema), SecondOrder(embedding_dim)],
        )
