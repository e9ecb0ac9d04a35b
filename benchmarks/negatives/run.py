"""Negatives: how long ten million take, and what correcting for those left out does.

python benchmarks/negatives/run.py [--seeds 0 1 2]

Ten million: five for each of two million positives of 200,000 users among 100,000 items of
zipf-like popularity, in proportion to popularity ** 0.75, none that its user met. Every positive
pair counts as met. As preparation does, ordered by user and 500,000 positives at a time; drawing
alone, the median of three.

Calibration: the simulator's log (2,000 users, 20 requests of 10 candidates); a DNN with target
attention is trained on a tenth of the negatives (`negatives.keep: 0.1`). Its mean prediction on the
test set with the correction, and without (the share's logarithm taken off again), beside the share
of clicks there, and beside the same model trained on all negatives.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

import finerank
from finerank.bundle import load_bundle
from finerank.data.dataset import Dataset
from finerank.data.loader import Loader
from finerank.data.sampling import Met, NegativeSampler
from finerank.data.simulator import simulate, write
from finerank.recipe import Recipe

HERE = Path(__file__).parent
USERS, ITEMS, POSITIVES, EACH = 200_000, 100_000, 2_000_000, 5
PIECE = 500_000
KEEP = 0.1
BINS = 10


def main() -> None:
    """Run both and write the page with its figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/negatives"))
    given = parser.parse_args()
    seconds = [ten_million(seed) for seed in range(3)]
    print(seconds, flush=True)
    rows, curves = [], {}
    for seed in given.seeds:
        found = calibration(seed, given.work / f"seed-{seed}")
        curves = curves or {name: curve(*each) for name, each in found.items()}
        base = float(found["all negatives"][0].mean())
        means = [float(scores.mean()) for _, scores in found.values()]
        rows.append(f"| {seed} | {base:.4f} | " + " | ".join(f"{m:.4f}" for m in means) + " |")
        print(rows[-1], flush=True)
    plot(curves)
    names = " | ".join(f"mean prediction, {name}" for name in curves)
    page = [
        "# Negatives: speed and calibration",
        "",
        __doc__.split("\n\n", 2)[2].strip(),
        "",
        f"```\npython benchmarks/negatives/run.py --seeds {' '.join(map(str, given.seeds))}\n```",
        "",
        f"Ten million negatives: {statistics.median(seconds):.1f} s "
        f"({min(seconds):.1f} to {max(seconds):.1f}).",
        "",
        f"| seed | share of clicks | {names} |",
        "|" + " --- |" * (len(curves) + 2),
        *rows,
        "",
        "![observed share of clicks against the mean prediction, seed "
        f"{given.seeds[0]}](calibration.png)",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, finerank {finerank.__version__}, NumPy {np.__version__}, "
        f"torch {torch.__version__}, Python {platform.python_version()}.",
        "",
    ]
    (HERE / "RESULTS.md").write_text("\n".join(page))


def ten_million(seed: int) -> float:
    """Seconds for ten million negatives."""
    random = np.random.default_rng(seed)
    users = np.sort(random.integers(1, USERS, POSITIVES))
    items = np.exp(random.random(POSITIVES) * math.log(ITEMS)).astype(np.int64)
    weights = np.bincount(items, minlength=ITEMS).astype(np.float64) ** 0.75
    sampler = NegativeSampler(weights, Met(np.unique(users * ITEMS + items)))
    started = time.perf_counter()
    drawn = 0
    for start in range(0, POSITIVES, PIECE):
        piece = slice(start, start + PIECE)
        drawn += len(sampler.draw(users[piece], items[piece], None, EACH, random)[1])
    seconds = time.perf_counter() - started
    assert drawn == POSITIVES * EACH
    return seconds


def calibration(seed: int, work: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels and predictions on the test set, by how the model was trained and corrected."""
    write(simulate(users=2_000, requests_per_user=20, candidates_per_request=10, seed=seed), work)
    text = (files("finerank") / "recipes" / "simulated.yaml").read_text()
    (work / "recipe.yaml").write_text(text.replace("raw/", ""))
    split = ["split.by=random", "split.valid=0.1", "split.test=0.1"]
    recipe = Recipe.load(work / "recipe.yaml").override([*split, f"training.seed={seed}"])
    full = scored(recipe, work / "all")
    labels, kept = scored(recipe.override([f"negatives.keep={KEEP}"]), work / "kept")
    odds = kept / (1 - kept) / KEEP
    return {
        "all negatives": full,
        "a tenth, corrected": (labels, kept),
        "a tenth, not corrected": (labels, odds / (1 + odds)),
    }


def scored(recipe: Recipe, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions on the test set of a model that is trained now."""
    data = finerank.prepare(recipe, folder / "data").folder
    run = finerank.train(data, folder / "run")
    model: Any = load_bundle(run.folder / "bundle").model.eval()
    labels, scores = [], []
    with torch.inference_mode():
        for batch in Loader(Dataset(data).split("test"), batch_size=4096):
            assert batch.labels is not None
            labels.append(batch.labels[:, 0])
            scores.append(model(batch)[:, 0].double().sigmoid())
    return torch.cat(labels).numpy(), torch.cat(scores).numpy()


def curve(labels: np.ndarray, scores: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean prediction and share of clicks of ten groups of equal size, by prediction."""
    groups = np.array_split(np.argsort(scores, kind="stable"), BINS)
    means = ([float(each[group].mean()) for group in groups] for each in (scores, labels))
    predicted, observed = means
    return predicted, observed


def plot(curves: dict[str, tuple[list[float], list[float]]]) -> None:
    """The figure."""
    from matplotlib import pyplot  # noqa: PLC0415  (only the benchmarks need it)

    figure, axes = pyplot.subplots(figsize=(5, 4.5))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name, (predicted, observed) in curves.items():
        axes.plot(predicted, observed, marker="o", label=name)
    axes.set(xlabel="mean prediction", ylabel="share of clicks", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    figure.tight_layout()
    figure.savefig(HERE / "calibration.png", dpi=120)


if __name__ == "__main__":
    main()
