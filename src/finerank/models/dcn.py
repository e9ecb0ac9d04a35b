"""DCN: a cross network beside a deep network, on the same input."""

from typing import Literal

from finerank.data.schema import Schema
from finerank.models.heads import HeadOption, as_head
from finerank.models.inputs import Inputs
from finerank.models.interactions import CrossAndDeep
from finerank.models.options import Share, Size, Units
from finerank.models.poolings import PoolingOption, build_poolings
from finerank.models.ranking_model import RankingModel
from finerank.nn.activations import ActivationName
from finerank.nn.cross import CrossNetwork, CrossNetworkV2
from finerank.nn.mlp import MLP, NormalizationName


class DCN(RankingModel):
    """Deep & Cross Network: products of features of growing degree beside an MLP.

    Source:
        Wang et al., Deep & Cross Network for Ad Click Predictions, ADKDD 2017, arXiv:1708.05123;
        with ``cross`` of matrix or low_rank DCN V2, WWW 2021, arXiv:2008.13535.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: Size = 16,
        cross: Literal["vector", "matrix", "low_rank"] = "vector",
        num_cross_layers: Size = 3,
        rank: Size = 32,
        order: Literal["parallel", "stacked"] = "parallel",
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
            cross: What each cross layer's weight is: a vector (DCN), a matrix or a product of two
                narrow ones (DCN V2).
            num_cross_layers: How many cross layers.
            rank: The width of the narrow matrices, for ``low_rank``.
            order: Whether the MLP stands beside the cross network or follows it.
            hidden_units: The widths of the MLP's layers.
            activation: The MLP's activation.
            normalization: The MLP's normalisation.
            dropout: The share of the MLP's outputs dropped in training.
            pooling: How each history becomes one vector.
            head: How both outputs become one logit a task.
        """
        inputs = Inputs(schema, embedding_dim=embedding_dim)

        def interaction(request_dim: int, candidate_dim: int) -> CrossAndDeep:
            dim = request_dim + candidate_dim
            low_rank = rank if cross == "low_rank" else None
            return CrossAndDeep(
                CrossNetwork(dim, num_layers=num_cross_layers)
                if cross == "vector"
                else CrossNetworkV2(dim, num_layers=num_cross_layers, low_rank=low_rank),
                MLP(
                    dim,
                    hidden_units,
                    activation=activation,
                    normalization=normalization,
                    dropout=dropout,
                ),
                stacked=order == "stacked",
            )

        super().__init__(
            inputs,
            pooling=build_poolings(schema, inputs, pooling),
            interaction=interaction,
            head=as_head(head),
        )
