"""The MMoE paper's synthetic experiment: loss against the correlation of two regression tasks.

python benchmarks/mmoe-synthetic/run.py [--seeds 20] [--steps 2000]

Ma et al., KDD 2018, section 3.2: an input of 100 standard normal numbers; two orthogonal unit
vectors u1, u2; weights w1 = u1 and w2 = p u1 + sqrt(1 - p^2) u2, so that p is their cosine;
y_k = w_k x + sum_i sin(a_i w_k x + b_i) + noise of standard deviation 0.1. Eight experts of 16, a
tower of 8; the shared bottom has 126 units, which makes the models about equally large (the paper's
113 would have fewer weights). The paper gives no a_i and b_i; here a_i = i and b_i = i pi / 5 for
i = 1 to 4.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from finerank.nn.heads import MixtureHead, SharedBottomHead

INPUT_DIM, BATCH_SIZE, LEARNING_RATE = 100, 512, 1e-3
CORRELATIONS = (0.5, 0.9, 1.0)
TERMS = torch.arange(1, 5)
TEST_ROWS = 10_000


def head(name: str) -> nn.Module:
    """One of the three heads, with about 14,500 weights each."""
    if name == "shared-bottom":
        return SharedBottomHead(INPUT_DIM, num_tasks=2, bottom_units=(126,), tower_units=(8,))
    return MixtureHead(
        INPUT_DIM,
        num_tasks=2,
        num_experts=8,
        expert_units=(16,),
        tower_units=(8,),
        one_gate=name == "one-gate",
    )


class Tasks:
    """Two regression tasks whose weight vectors have a given cosine."""

    def __init__(self, correlation: float, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        basis, _ = torch.linalg.qr(torch.randn(INPUT_DIM, 2, generator=self.random))
        mixed = correlation * basis[:, 0] + math.sqrt(1 - correlation**2) * basis[:, 1]
        self.weights = torch.stack([basis[:, 0], mixed], dim=1)  # (100, 2)

    def draw(self, rows: int) -> tuple[Tensor, Tensor]:
        """Inputs ``(rows, 100)`` and labels ``(rows, 2)``."""
        x = torch.randn(rows, INPUT_DIM, generator=self.random)
        linear = x @ self.weights
        waves = torch.sin(TERMS * linear.unsqueeze(2) + TERMS * math.pi / 5).sum(dim=2)
        return x, linear + waves + 0.1 * torch.randn(rows, 2, generator=self.random)


def final_loss(name: str, correlation: float, seed: int, steps: int) -> float:
    """The mean squared error on fresh rows after training, averaged over both tasks."""
    tasks = Tasks(correlation, seed)
    torch.manual_seed(seed)
    model = head(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    nobody = torch.zeros(BATCH_SIZE, 0), torch.arange(BATCH_SIZE)
    for _ in range(steps):
        x, y = tasks.draw(BATCH_SIZE)
        loss = (model(x, *nobody) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, y = tasks.draw(TEST_ROWS)
    model.eval()
    with torch.inference_mode():
        return float((model(x, None, None) - y).square().mean())


def main() -> None:
    """Run all and write the page and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    names = ("shared-bottom", "one-gate", "mmoe")
    started = time.perf_counter()
    losses = {
        (name, p): [final_loss(name, p, seed, arguments.steps) for seed in range(arguments.seeds)]
        for p in CORRELATIONS
        for name in names
    }
    folder, seconds = Path(__file__).parent, time.perf_counter() - started
    (folder / "RESULTS.md").write_text(page(losses, names, arguments, seconds))
    plot(losses, names, folder / "loss.png")


def page(
    losses: dict[tuple[str, float], list[float]],
    names: tuple[str, ...],
    arguments: argparse.Namespace,
    seconds: float,
) -> str:
    """The results page."""
    sizes = {name: sum(p.numel() for p in head(name).parameters()) for name in names}
    rows = [
        f"| {p} | "
        + " | ".join(
            f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
            for values in (losses[name, p] for name in names)
        )
        + " |"
        for p in CORRELATIONS
    ]
    command = f"--seeds {arguments.seeds} --steps {arguments.steps}"
    lines = [
        "# MMoE's synthetic experiment",
        "",
        __doc__.split("\n\n", 2)[2].strip(),
        "",
        f"```\npython benchmarks/mmoe-synthetic/run.py {command}\n```",
        "",
        "Mean squared error on fresh rows, mean ± standard deviation over the seeds:",
        "",
        "| correlation | " + " | ".join(names) + " |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        "Weights: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()) + ".",
        "",
        "![loss against correlation](loss.png)",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {seconds:.0f} s.",
        "",
    ]
    return "\n".join(lines)


def plot(losses: dict[tuple[str, float], list[float]], names: tuple[str, ...], path: Path) -> None:
    """Draw the mean losses with their spread."""
    from matplotlib import pyplot  # noqa: PLC0415  (only the benchmarks need it)

    figure, axes = pyplot.subplots(figsize=(5, 3.5))
    for name in names:
        means = [statistics.mean(losses[name, p]) for p in CORRELATIONS]
        spreads = [statistics.stdev(losses[name, p]) for p in CORRELATIONS]
        axes.errorbar(CORRELATIONS, means, yerr=spreads, marker="o", capsize=3, label=name)
    axes.set(xlabel="correlation of the tasks", ylabel="mean squared error")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
