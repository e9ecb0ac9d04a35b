"""What every model is: embed, pool the histories, interact, head.

Shapes: ``R`` requests, ``B`` candidates, ``T`` tasks, ``W`` widths.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from finerank.data.batch import Batch
from finerank.models.inputs import Inputs
from finerank.nn.mlp import MLP
from finerank.nn.pooling import MeanPooling, SumPooling
from finerank.nn.target_attention import TargetAttention


class Interaction(nn.Module):
    """Joins what is known of the request and of the candidate into one vector a candidate.

    Attributes:
        output_dim: the width of that vector.
    """

    output_dim: int

    def forward(self, request: Tensor, candidate: Tensor, request_of_candidate: Tensor) -> Tensor:
        """Return one vector a candidate ``(B, W)``."""
        raise NotImplementedError


class RankingModel(nn.Module):
    """Scores the candidates of requests.

    Whatever belongs to the user is looked up, pooled and projected once a request.

    Args:
        inputs: embeds the batch.
        pooling: history -> how it is pooled: `SumPooling` or `MeanPooling`, one vector a request;
            or `TargetAttention`, one vector a candidate.
        interaction: builds the interaction from the request's and the candidate's width.
        head: builds the head, from a vector to one logit a task, from that vector's width.

    Shape:
        - output: logits ``(B, T)``.
    """

    def __init__(
        self,
        inputs: Inputs,
        pooling: Mapping[str, SumPooling | MeanPooling | TargetAttention],
        interaction: Callable[[int, int], Interaction],
        head: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.pooling = nn.ModuleDict({f"of_{name}": block for name, block in pooling.items()})
        request_dim, candidate_dim = inputs.request_dim, inputs.candidate_dim
        for block in pooling.values():
            if isinstance(block, TargetAttention):
                candidate_dim += block.output_dim
            else:
                request_dim += block.output_dim
        self.interaction = interaction(request_dim, candidate_dim)
        self.head = head(self.interaction.output_dim)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits ``(B, T)``."""
        fields = self.inputs(batch)
        request, candidate = [fields.request], [fields.candidate]
        for name, steps in fields.steps.items():
            pool, offsets = self.pooling[f"of_{name}"], batch.histories[name].offsets
            if isinstance(pool, TargetAttention):
                target = fields.targets[name]
                candidate.append(pool(target, steps, offsets, batch.request_of_candidate))
            else:
                request.append(pool(steps, offsets))
        x = self.interaction(
            torch.cat(request, dim=1), torch.cat(candidate, dim=1), batch.request_of_candidate
        )  # (B, W)
        logits: Tensor = self.head(x)  # (B, T)
        return logits


class MLPInteraction(Interaction):
    """An MLP over the request's and the candidate's vectors, side by side."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.mlp = mlp
        self.output_dim = mlp.output_dim

    def forward(self, request: Tensor, candidate: Tensor, request_of_candidate: Tensor) -> Tensor:
        """Return the last layer's output ``(B, W)``."""
        return self.mlp.forward_split(request, candidate, request_of_candidate)
