"""What training makes small.

Shapes: ``B`` candidates, ``T`` tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def task_losses(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Mean binary cross-entropy of each task, over the candidates whose label is known.

    .. math:: \mathrm{softplus}(s) - y s

    which is finite for any finite logit, since no probability is formed.

    Args:
        logits: ``(B, T)``.
        labels: ``(B, T)``, 0 or 1, or NaN where missing: such a label adds nothing and counts
            for nothing.

    Returns:
        ``(T,)``, in nats, at least 0; 0 for a task without any known label.
    """
    known = labels.isfinite()
    losses = functional.softplus(logits) - labels.nan_to_num() * logits
    return losses.mul(known).sum(dim=0) / known.sum(dim=0).clamp(min=1)
