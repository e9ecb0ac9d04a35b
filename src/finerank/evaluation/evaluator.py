"""Scores of a whole set of examples, and its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from finerank.data.loader import Loader
from finerank.data.placement import Placement
from finerank.evaluation.metrics import binary_metrics
from finerank.nn.allocator import keep_freed_memory
from finerank.progress import Progress, silent

if TYPE_CHECKING:
    from torch import nn

    from finerank.data.examples import Examples
    from finerank.data.placement import PlacedSet

BATCH_SIZE = 8192  # candidates

Metrics = dict[str, dict[str, float | int | None]]


def score(
    model: nn.Module,
    examples: PlacedSet,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress = silent,
) -> np.ndarray:
    """The logits ``(B, T)`` of all candidates, in their order; the model is left in eval mode.

    They are computed in float32 on the model's device and fetched from there once.

    Args:
        batch_size: candidates scored at a time; scores depend on it by rounding only.
        progress: told of each batch.
    """
    keep_freed_memory()
    model.eval()
    logits = []
    total = examples.num_candidates
    placed = Placement(next(model.parameters()).device).place(examples)
    with torch.inference_mode(), progress("scoring", total) as advance:
        for batch in Loader(placed, batch_size=batch_size):
            logits.append(model(batch))
            advance(len(logits[-1]))
    return torch.cat(logits).cpu().numpy() if logits else np.zeros((0, len(examples.schema.tasks)))


def evaluate(model: nn.Module, examples: Examples, *, progress: Progress = silent) -> Metrics:
    """The metrics of each task, as `finerank.evaluation.metrics.binary_metrics` defines them."""
    return metrics_of(score(model, examples, progress=progress), examples)


def metrics_of(logits: np.ndarray, examples: Examples) -> Metrics:
    """The metrics of each task for logits ``(B, T)`` of examples, in their order."""
    assert examples.labels is not None
    users = None
    if examples.users is not None:
        candidates = examples.first_candidate.diff()
        users = examples.user.repeat_interleave(candidates).numpy()
    return {
        task: binary_metrics(labels.numpy(), logits[:, column], users)
        for column, (task, labels) in enumerate(
            zip(examples.schema.tasks, examples.labels, strict=True)
        )
    }
