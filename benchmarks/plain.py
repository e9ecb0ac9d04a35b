"""Whether training fast costs quality: the same trainings with all that is fast, and without.

python benchmarks/plain.py benchmarks/amazon-beauty --data DIR --only DIN [--seeds 0 1 2 3 4]

The folder is one of those that `run.py` takes, DIR holds its raw files. Fast is as finerank trains
where nothing is said. Plain is float32 by torch alone, without the functions that are compiled with
the package, and an Adam that moves every row of every table in each step. Prints test AUC, log loss
and speed of both, as mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import re
import statistics
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from run import load_recipe, spread

import finerank
from finerank.nn.kernels import library

FAST = ["training.precision=auto", "training.embedding_optimizer=adam"]
PLAIN = [
    "training.precision=float32",
    "training.embedding_weight_decay=1e-12",  # any at all, and every row moves in each step
]


def main() -> None:
    """Train all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", required=True, help="variants of benchmark.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, default=Path("runs/plain"))
    given = parser.parse_args()
    benchmark = yaml.safe_load((given.folder / "benchmark.yaml").read_text())
    print("| model | path | seeds | AUC | log loss (nats) | epochs | samples/s |")
    print("|" + " --- |" * 7)
    for name in given.only:
        variant = benchmark["variants"][name]
        recipe = load_recipe(given.folder / variant.get("recipe", "recipe.yaml"), given.data)
        work = given.work / given.folder.name / re.sub(r"\W+", "-", name)
        recipe = recipe.override(variant.get("set", []))
        finerank.prepare(recipe, work / "data")
        for path in ("fast", "plain"):
            found = [trained(work, variant, path, seed) for seed in given.seeds]
            print("| " + " | ".join([name, path, *cells(found)]) + " |", flush=True)


def trained(work: Path, variant: dict[str, Any], path: str, seed: int) -> dict[str, Any]:
    """The metrics of one run."""
    changes = [each for each in variant.get("set", []) if each.startswith(("model", "training"))]
    changes += [f"training.seed={seed}", "training.device=cpu"]
    out = work / f"{path}-{seed}"
    changes += FAST if path == "fast" else PLAIN
    compiled = path == "fast" and library.is_there()
    with patch.object(library, "is_there", lambda: compiled):
        return finerank.train(
            work / "data", out, model=variant.get("model"), overrides=changes
        ).metrics


def cells(found: list[dict[str, Any]]) -> list[str]:
    """Of one row of the table."""
    tests = [next(iter(each["test"].values())) for each in found]
    training = [each["training"] for each in found]
    return [
        str(len(found)),
        spread([each["auc"] for each in tests]),
        spread([each["log_loss_nats"] for each in tests]),
        f"{statistics.mean(each['epochs'] for each in training):.1f}",
        f"{statistics.median(each['samples_per_s'] for each in training):,.0f}",
    ]


if __name__ == "__main__":
    main()
