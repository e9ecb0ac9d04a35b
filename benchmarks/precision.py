"""What bfloat16 does to a model: the same training in both precisions, on MovieLens-100K.

python benchmarks/precision.py [--seeds 0 1 2] [--models dnn din] [--work runs/precision]

The shipped recipe, as `finerank demo` trains it. A CPU without bfloat16 emulates it: slower, with
the same rounding. Prints test AUC and log loss of every run, and how far the scores of the models
that were trained in bfloat16 move if they are computed in bfloat16 too. `FINERANK_DATA` names a
local copy of the data.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

import finerank
from finerank.bundle import load_bundle
from finerank.evaluation.evaluator import metrics_of, score
from finerank.movielens import FILES, find_movielens
from finerank.recipe import Recipe

if TYPE_CHECKING:
    from finerank.data.batch import Batch

METRICS = ("auc", "gauc", "log_loss_nats")
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Train all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=["dnn", "din"])
    parser.add_argument("--work", type=Path, default=Path("runs/precision"))
    given = parser.parse_args()
    dataset = prepared(given.work)
    print("| model | precision | seeds | AUC | GAUC | log loss (nats) |\n|---|---|---|---|---|---|")
    moved = []
    for model in given.models:
        for precision in PRECISIONS:
            found = [trained(dataset, given.work, model, precision, seed) for seed in given.seeds]
            cells = [spread([each[metric] for each in found]) for metric in METRICS]
            seeds = ", ".join(map(str, given.seeds))
            print(f"| {model} | {precision} | {seeds} | {' | '.join(cells)} |", flush=True)
        moved += [
            scored_short(dataset, given.work / f"{model}-bfloat16-{seed}") for seed in given.seeds
        ]
    largest, auc, loss = (max(values) for values in zip(*moved, strict=True))
    print(f"\nScoring in bfloat16 moves a logit by up to {largest:.4f}, AUC by up to {auc:.6f}, "
          f"log loss by up to {loss:.6f} nats.")  # fmt: skip


def prepared(work: Path) -> finerank.Dataset:
    """The data set of the shipped recipe."""
    source = find_movielens()
    if source is None:
        sys.exit("expected MovieLens-100K, found none: FINERANK_DATA can name a local copy")
    (work / "raw").mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy2(source / name, work / "raw" / name)
    recipe = work / "recipe.yaml"
    shutil.copy(str(files("finerank") / "recipes" / "movielens-100k.yaml"), recipe)
    return finerank.Dataset(finerank.prepare(Recipe.load(recipe), work / "prepared").folder)


def trained(
    dataset: finerank.Dataset, work: Path, model: str, precision: str, seed: int
) -> dict[str, float]:
    """The test metrics of one run."""
    overrides = [
        f"training.seed={seed}", f"training.precision={precision}", "training.device=cpu"
    ]  # fmt: skip
    out = work / f"{model}-{precision}-{seed}"
    run = finerank.train(dataset.folder, out, model=model, overrides=overrides)
    assert run.metrics["training"]["precision"] == precision
    metrics: dict[str, float] = run.metrics["test"]["like"]
    return metrics


def spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def scored_short(dataset: finerank.Dataset, run: Path) -> tuple[float, float, float]:
    """How far logits (the largest), AUC and log loss move when scores are bfloat16 too."""
    model, test = load_bundle(run).model, dataset.split("test")
    long = score(model, test)
    short = score(Short(model), test)
    one, other = (metrics_of(each, test)["like"] for each in (long, short))
    changes = [abs(one[name] - other[name]) for name in ("auc", "log_loss_nats")]
    return float(np.abs(long - short).max()), changes[0], changes[1]


class Short(nn.Module):
    """A model whose matrix products are bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        """The logits ``(B, T)``."""
        with torch.autocast("cpu", torch.bfloat16):
            logits: torch.Tensor = self.model(batch)
        return logits.float()


if __name__ == "__main__":
    main()
