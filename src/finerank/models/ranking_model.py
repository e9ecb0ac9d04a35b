"""What every model is: embed, pool the histories, interact, head.

Shapes: ``R`` requests, ``B`` candidates, ``T`` tasks, ``W`` widths.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from finerank.data.batch import Batch
from finerank.models.heads import Head, HeadBlock
from finerank.models.inputs import Inputs
from finerank.models.interactions import Interaction
from finerank.models.poolings import PoolingBlock
from finerank.nn.filled import counting
from finerank.nn.heads import MixtureHead, ProgressiveHead
from finerank.nn.joined import Rows, beside
from finerank.nn.target_attention import TargetAttention


class RankingModel(nn.Module):
    """Scores the candidates of requests.

    Whatever belongs to the user is looked up, pooled and projected once a request.

    Args:
        inputs: embeds the batch.
        pooling: history -> how it is pooled: one vector a request (mean, sum) or one a candidate
            (target attention).
        interaction: builds the interaction from the request's and the candidate's width.
        head: one logit a task, from the interaction's output.
        shortcuts: terms ``(B, 1)`` that are added to every task's logit.

    Attributes:
        log_odds_shift: added to each task's logit in evaluation ``(T,)``: what corrects for
            negatives that training left out, 0 where none were.

    Shape:
        - output: logits ``(B, T)``.
    """

    def __init__(
        self,
        inputs: Inputs,
        *,
        pooling: Mapping[str, PoolingBlock],
        interaction: Callable[[int, int], Interaction],
        head: Head,
        shortcuts: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.pooling = nn.ModuleDict({f"of_{name}": block for name, block in pooling.items()})
        self.request_dim, self.candidate_dim = inputs.request_dim, inputs.candidate_dim
        for block in pooling.values():
            if isinstance(block, TargetAttention):
                self.candidate_dim += block.output_dim
            else:
                self.request_dim += block.output_dim
        self.interaction = interaction(self.request_dim, self.candidate_dim)
        num_tasks = len(inputs.schema.tasks)
        self.head: HeadBlock = head.build(self.interaction.output_dim, self.request_dim, num_tasks)
        self.shortcuts = nn.ModuleList(shortcuts)
        self.log_odds_shift: Tensor
        self.register_buffer("log_odds_shift", torch.zeros(num_tasks))

    def correct_for_negatives(self, kept: Sequence[float]) -> None:
        r"""Let evaluation give probabilities of the log, not of the thinned training set.

        Where a share :math:`r` of the negatives was trained on, the odds that training sees are
        :math:`1 / r` times too high, so that :math:`\ln r` is added to the logit.

        Args:
            kept: for each task the share of its negatives that training has, above 0.

        Source:
            King and Zeng, Logistic Regression in Rare Events Data, Political Analysis 2001, eq.
            (7), for a known share; He et al., Practical Lessons from Predicting Clicks on Ads at
            Facebook, ADKDD 2014, section 6.3.
        """
        self.log_odds_shift.copy_(torch.tensor(kept).log())

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits ``(B, T)``."""
        with counting(batch.count):
            return self._logits(batch)

    def _logits(self, batch: Batch) -> Tensor:
        request, candidate, x = self.interact(batch)  # (R, Wr), (B, Wc), (B, W)
        logits: Tensor = self.head(x, request, batch.request_of_candidate)  # (B, T)
        for shortcut in self.shortcuts:
            logits = logits + shortcut(batch, request, candidate)
        return logits if self.training else logits + self.log_odds_shift

    def interact(self, batch: Batch) -> tuple[Rows, Rows, Rows]:
        """Return what `embed_and_pool` does, and the interaction of both ``(B, W)``."""
        request, candidate = self.embed_and_pool(batch)
        x: Rows = self.interaction(request, candidate, batch.request_of_candidate)
        return request, candidate, x

    def embed_and_pool(self, batch: Batch) -> tuple[Rows, Rows]:
        """Return what is known of each request ``(R, Wr)`` and of each candidate ``(B, Wc)``."""
        fields = self.inputs(batch)
        request, candidate = fields.request, fields.candidate
        for name, steps in fields.steps.items():
            pool, history = self.pooling[f"of_{name}"], batch.histories[name]
            if isinstance(pool, TargetAttention):
                target = fields.targets[name]
                of_candidate = batch.request_of_candidate
                pairs = history.num_pairs
                pooled = pool(
                    target,
                    steps,
                    history.offsets,
                    of_candidate,
                    num_pairs=pairs,
                    count=batch.count,
                    spend=True,
                )
                candidate = beside(candidate, pooled)
            else:
                request = beside(request, pool(steps, history.offsets))
        return request, candidate

    def gates(self, batch: Batch) -> Tensor | None:
        """Return the experts' shares in each task ``(B, T, E)``; None without experts."""
        if not isinstance(self.head, MixtureHead | ProgressiveHead):
            return None
        request, _, x = self.interact(batch)
        return self.head.gates(x, request, batch.request_of_candidate)
