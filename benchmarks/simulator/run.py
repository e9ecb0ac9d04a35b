"""How much of the way from a DNN to the best possible model DIN goes, on a simulated log.

python benchmarks/simulator/run.py [--seeds 0 1 2]

1,000 users with 20 requests of 10 candidates each; a click's probability is a known function of the
candidate and of the user's past clicks, so the best possible AUC is that of the probabilities
themselves. Both models see the same features and the same history of clicks; the DNN averages it.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

import finerank
from finerank.data.simulator import simulate, write
from finerank.evaluation.metrics import auc
from finerank.progress import bars
from finerank.recipe import Recipe


def main() -> None:
    """Run all seeds and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/simulator"))
    arguments = parser.parse_args()
    lines = [
        "| seed | DNN | DIN | best possible | share of the way |",
        "| --- | --- | --- | --- | --- |",
    ]
    shares = []
    for seed in arguments.seeds:
        best, dnn, din = one(seed, arguments.work / f"seed-{seed}")
        shares.append((din - dnn) / (best - dnn))
        lines.append(f"| {seed} | {dnn:.4f} | {din:.4f} | {best:.4f} | {shares[-1]:.1%} |")
        print(lines[-1], flush=True)
    seeds = " ".join(map(str, arguments.seeds))
    page = [
        "# DIN on the simulator",
        "",
        __doc__.split("\n\n", 2)[2].strip(),
        "",
        f"```\npython benchmarks/simulator/run.py --seeds {seeds}\n```",
        "",
        "Test AUC (the newest 10 % of the rows):",
        "",
        *lines,
        "",
        f"Mean share: {statistics.mean(shares):.1%}. {datetime.now(UTC):%Y-%m-%d}, finerank "
        f"{finerank.__version__}, torch {torch.__version__}, Python {platform.python_version()}.",
        "",
    ]
    (Path(__file__).parent / "RESULTS.md").write_text("\n".join(page))


def one(seed: int, work: Path) -> tuple[float, float, float]:
    """The best possible test AUC, that of DNN and that of DIN."""
    work.mkdir(parents=True, exist_ok=True)
    simulation = simulate(users=1000, requests_per_user=20, candidates_per_request=10, seed=seed)
    write(simulation, work / "raw")
    shutil.copy(str(files("finerank") / "recipes" / "simulated.yaml"), work / "recipe.yaml")
    # the embeddings with plain Adam: the figures are of it
    changes = [
        f"training.seed={seed}",
        "training.embedding_optimizer=adam",
        "training.precision=float32",
    ]
    recipe = Recipe.load(work / "recipe.yaml").override(changes)
    prepared = finerank.prepare(recipe, work / "prepared", progress=bars)
    scores = [
        finerank.train(prepared.folder, work / model, model=model, progress=bars).metrics["test"]
        for model in ("dnn", "din")
    ]
    times = simulation.log["timestamp_s"].to_numpy()
    rows = prepared.manifest["report"]["rows"]
    first = np.sort(times)[-rows["test"]]
    labels = simulation.log["click"].to_numpy()[times >= first]
    best = auc(labels, simulation.click_probabilities[times >= first])
    assert best is not None
    return best, scores[0]["click"]["auc"], scores[1]["click"]["auc"]


if __name__ == "__main__":
    main()
