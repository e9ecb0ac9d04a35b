"""FM: a linear part and the products of all pairs of features."""

from finerank.data.schema import Schema
from finerank.models.heads import Linear
from finerank.models.inputs import Inputs
from finerank.models.interactions import Nothing
from finerank.models.options import Size
from finerank.models.poolings import PoolingOption, build_poolings
from finerank.models.ranking_model import RankingModel
from finerank.models.shortcuts import FirstOrder, SecondOrder


class FM(RankingModel):
    """Factorization machine: a weight a feature, and a product of embeddings a pair of features.

    Source:
        Rendle, Factorization Machines, ICDM 2010, doi:10.1109/ICDM.2010.127.
    """

    def __init__(
        self, schema: Schema, *, embedding_dim: Size = 16, pooling: PoolingOption = "mean"
    ) -> None:
        """Build the model.

        Args:
            schema: The features, histories and tasks.
            embedding_dim: The width of every embedding.
            pooling: How each history becomes one vector.
        """
        inputs = Inputs(schema, embedding_dim=embedding_dim, numbers="embedded")
        super().__init__(
            inputs,
            pooling=build_poolings(schema, inputs, pooling),
            interaction=lambda *_: Nothing(),
            head=Linear(),
            shortcuts=[FirstOrder(schema), SecondOrder(embedding_dim)],
        )
