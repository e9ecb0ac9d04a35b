"""Run a benchmark: train each variant of a recipe with several seeds, write a results page.

python benchmarks/run.py benchmarks/movielens-100k --data DIR [--seeds 0 1 2] [--only DIN]

DIR holds the raw files that the benchmark's page names. Runs that are there already are not
repeated, so a benchmark that was stopped goes on where it was. A benchmark's folder has recipes and
a ``benchmark.yaml``: title, about, findings, seeds, variants, each with what it changes (recipe,
model, set, tasks) and what is published of it. ``before`` is a script that makes the data from DIR;
``seeded`` are settings of the data that follow the seed.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

import finerank
from finerank.progress import bars
from finerank.recipe import Recipe

NUMBERS = {"auc": "AUC", "gauc": "GAUC", "log_loss_nats": "log loss (nats)"}


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--only", nargs="+", help="variants to train; the page shows all there are")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="where runs are kept")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    benchmark = yaml.safe_load((folder / "benchmark.yaml").read_text())
    seeds = arguments.seeds or benchmark["seeds"]
    work = arguments.work / folder.name
    data_folder: Path = arguments.data
    if "before" in benchmark:
        data_folder = work / "raw"
        script = str(folder / benchmark["before"])
        subprocess.run([sys.executable, script, arguments.data, data_folder], check=True)
    runs: dict[str, list[dict[str, Any]]] = {}
    for name, variant in benchmark["variants"].items():
        path = folder / variant.get("recipe", "recipe.yaml")
        recipe = load_recipe(path, data_folder, variant.get("tasks"))
        for seed in seeds:
            out = work / re.sub(r"\W+", "-", name) / f"seed-{seed}"
            if not (out / "metrics.json").exists():
                if arguments.only and name not in arguments.only:
                    continue
                seeded = [f"{setting}={seed}" for setting in benchmark.get("seeded", [])]
                changes = [*variant.get("set", []), *seeded, f"training.seed={seed}"]
                changed = recipe.override(changes)
                draw = f"-{seed}" if seeded else ""
                data = work / f"data-{changed.name}-{variant.get('data', 'all')}{draw}"
                finerank.prepare(changed, data, progress=bars)
                training = [c for c in changes if c.startswith(("model", "training"))]
                model = variant.get("model")
                finerank.train(data, out, model=model, overrides=training, progress=bars)
            metrics = json.loads((out / "metrics.json").read_text())
            print(name, seed, json.dumps(metrics["test"]), metrics["training"], flush=True)
            runs.setdefault(name, []).append(metrics)
    (folder / "RESULTS.md").write_text(page(folder, benchmark, runs))


def load_recipe(path: Path, data: Path, tasks: list[str] | None = None) -> Recipe:
    """A recipe whose raw files are in the data folder, with all its tasks or some."""
    content = yaml.safe_load(path.read_text())
    if tasks is not None:
        content["tasks"] = {name: content["tasks"][name] for name in tasks}
    return Recipe.parse(content, where=str(path)).located(data)


def page(folder: Path, benchmark: dict[str, Any], runs: dict[str, list[dict[str, Any]]]) -> str:
    """The results page."""
    tasks = list(dict.fromkeys(task for each in runs.values() for task in each[0]["test"]))
    lines = [f"# {benchmark['title']}", "", benchmark["about"].strip(), ""]
    lines += ["```", f"python benchmarks/run.py {folder} --data DIR", "```", ""]
    for task in tasks:
        if len(tasks) > 1:
            lines += [f"## {task}", ""]
        lines += table(task, benchmark, {n: r for n, r in runs.items() if task in r[0]["test"]})
    if "findings" in benchmark:
        lines += [benchmark["findings"].strip(), ""]
    lines += [
        f"Test set; mean ± standard deviation over the seeds. {datetime.now(UTC):%Y-%m-%d}, "
        f"finerank {finerank.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {torch.get_num_threads()} threads on "
        f"{platform.machine()}.",
        "",
    ]
    return "\n".join(lines)


def table(task: str, benchmark: dict[str, Any], runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One task's table, as lines of Markdown."""
    shown = [
        n
        for n in NUMBERS
        if any(each["test"][task][n] is not None for r in runs.values() for each in r)
    ]
    titles = [
        "model",
        "seeds",
        *(NUMBERS[n] for n in shown),
        *(["best AUC"] if benchmark.get("best") else []),
        "valid AUC",
        "published",
        "parameters",
        "epochs",
        "s",
        "samples/s",
    ]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    for name, metrics in runs.items():
        training = [each["training"] for each in metrics]
        cells = [
            name,
            str(len(metrics)),
            *(spread([each["test"][task][n] for each in metrics]) for n in shown),
            *(
                [f"{max(each['test'][task]['auc'] for each in metrics):.4f}"]
                if "best AUC" in titles
                else []
            ),
            spread([each["valid"][task]["auc"] for each in metrics]),
            str(benchmark["variants"][name].get("published", "")),
            f"{training[0]['parameters']:,}",
            f"{statistics.mean(t['epochs'] for t in training):.1f}",
            f"{statistics.mean(t['seconds'] for t in training):.0f}",
            f"{statistics.median(t['samples_per_s'] for t in training):,.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
