"""Terms that go straight to the logits, beside what the head makes of the interaction.

Shapes: ``R`` requests, ``B`` candidates, ``F`` fields, ``D`` embedding width.
"""

import torch
from torch import Tensor, nn

from finerank.data.batch import Batch
from finerank.data.schema import Schema
from finerank.models.inputs import Inputs
from finerank.nn.factorization import FactorizationMachine
from finerank.nn.joined import Rows, whole
from finerank.nn.pooling import MeanPooling


class FirstOrder(nn.Module):
    r"""The linear part :math:`\sum_i w_i x_i` over ids, numbers, and the mean of each history.

    Shape:
        - output: ``(B, 1)``.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.inputs = Inputs(schema, embedding_dim=1, numbers="embedded")

    def forward(self, batch: Batch, request: Rows, candidate: Rows) -> Tensor:  # noqa: ARG002
        """Return the sum of the weights ``(B, 1)``."""
        fields = self.inputs(batch)
        of_request = whole(fields.request).sum(dim=1, keepdim=True)  # (R, 1)
        for name, steps in fields.steps.items():
            pooled = MeanPooling(steps.shape[1])(steps, batch.histories[name].offsets)
            of_request = of_request + pooled.sum(dim=1, keepdim=True)
        of_candidate = whole(fields.candidate).sum(dim=1, keepdim=True)  # (B, 1)
        return of_request.index_select(0, batch.request_of_candidate) + of_candidate


class SecondOrder(nn.Module):
    r"""FM's pairwise part :math:`\sum_{i<j} \langle v_i, v_j\rangle x_i x_j` over all fields.

    Args:
        embedding_dim: the width ``D`` of every field.

    Shape:
        - request ``(R, Fr D)``, candidate ``(B, Fc D)``; output ``(B, 1)``.
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.machine = FactorizationMachine()

    def forward(self, batch: Batch, request: Rows, candidate: Rows) -> Tensor:
        """Return the sum of the products ``(B, 1)``."""
        repeated = whole(request).index_select(0, batch.request_of_candidate)
        flat = torch.cat([repeated, whole(candidate)], dim=1)
        fields = flat.view(len(flat), -1, self.embedding_dim)  # (B, F, D)
        products: Tensor = self.machine(fields)
        return products
