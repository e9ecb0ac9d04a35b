"""What the gates of a mixture do: which experts each task uses, and whether they still mix."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import torch

from finerank.data.loader import Loader
from finerank.data.placement import Placement

if TYPE_CHECKING:
    from finerank.data.examples import Examples
    from finerank.models.ranking_model import RankingModel

COLLAPSED = 0.95  # mean share of one expert, from which a gate no longer mixes
UNUSED = 0.01  # mean share in every task, below which an expert does nothing
_BATCH_SIZE = 8192


class GateReport(TypedDict):
    """How the gates share the work.

    Attributes:
        mean_share: task -> mean share of each expert over the candidates; sums to 1.
        entropy_nats: task -> mean entropy of the shares, from 0 (one expert) to log(experts).
        warnings: collapsed gates and unused experts, in words.
    """

    mean_share: dict[str, list[float]]
    entropy_nats: dict[str, float]
    warnings: list[str]


def gate_report(model: RankingModel, examples: Examples) -> GateReport | None:
    """Describe the gates of a model over a set of examples; None for a model without gates."""
    model.eval()
    device = next(model.parameters()).device
    shares, entropy, count = torch.zeros((), device=device), torch.zeros((), device=device), 0
    with torch.inference_mode():
        for batch in Loader(Placement(device).place(examples), batch_size=_BATCH_SIZE):
            gates = model.gates(batch)  # (B, T, E)
            if gates is None:
                return None
            shares = shares + gates.double().sum(dim=0)
            entropy = entropy + torch.special.entr(gates.double()).sum(dim=(0, 2))
            count += len(gates)
    tasks = examples.schema.tasks
    mean = (shares / count).tolist()
    return GateReport(
        mean_share={task: [round(share, 6) for share in mean[t]] for t, task in enumerate(tasks)},
        entropy_nats={task: round(float(entropy[t] / count), 6) for t, task in enumerate(tasks)},
        warnings=_warnings(dict(zip(tasks, mean, strict=True))),
    )


def _warnings(mean_share: dict[str, list[float]]) -> list[str]:
    found = [
        f"the gate of {task} has collapsed: expert {expert} has {share:.1%} of it"
        for task, shares in mean_share.items()
        for expert, share in enumerate(shares)
        if share >= COLLAPSED and len(shares) > 1
    ]
    by_expert = zip(*mean_share.values(), strict=True)
    return found + [
        f"expert {expert} is unused: at most {max(shares):.2%} of any task"
        for expert, shares in enumerate(by_expert)
        if max(shares) < UNUSED
    ]
