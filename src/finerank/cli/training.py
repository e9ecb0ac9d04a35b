"""The commands about models: `train`, `evaluate`, `models` and `demo`."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from finerank.cli.shared import Out, Set, console
from finerank.errors import FinerankError
from finerank.progress import bars


def train(
    source: Annotated[Path, typer.Argument(help="A recipe, or a prepared data set's folder.")],
    out: Out,
    model: Annotated[str | None, typer.Option(help="A named model, with its defaults.")] = None,
    set_: Set = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="A run whose weights training starts from.")
    ] = None,
    only_new: Annotated[  # noqa: FBT002
        bool, typer.Option("--only-new", help="Train on the rows appended last only.")
    ] = False,
) -> None:
    """Train a model; writes a run's folder with bundle, metrics, recipe and log."""
    from finerank.run import train as run

    done = run(
        source,
        out,
        model=model,
        overrides=set_ or [],
        start=start,
        only_new=only_new,
        progress=bars,
    )
    training = done.metrics["training"]
    output = console()
    output.print(
        f"{done.metrics['model']}: {training['parameters']:,} parameters, best epoch "
        f"{training['best_epoch']} of {training['epochs']}, {training['seconds']:.1f} s, "
        f"{training['samples_per_s']:,.0f} samples/s, peak memory "
        f"{training['peak_memory_mb']:,.0f} MiB"
    )
    output.print(_metrics_table({s: done.metrics[s] for s in ("valid", "test")}))
    for warning in (*training["warnings"], *done.metrics.get("gates", {}).get("warnings", ())):
        output.print(f"warning: {escape(warning)}")
    output.print(f"Run in {done.folder}")


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a bundle.")],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    data: Annotated[Path | None, typer.Option(help="Another prepared data set.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """AUC, GAUC and log loss of each task on a split."""
    from finerank.run import evaluate_run
    from finerank.settings import SPLITS

    name = next((known for known in SPLITS if known == split), None)
    if name is None:
        raise FinerankError("--split", expected=f"one of {', '.join(SPLITS)}", found=repr(split))
    metrics = evaluate_run(run, split=name, data=data, progress=bars)
    if as_json:
        sys.stdout.write(json.dumps(metrics, indent=2) + "\n")
    else:
        console().print(_metrics_table({split: metrics}))


def _metrics_table(by_split: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None)
    for column in ("split", "task", "AUC", "GAUC", "log loss (nats)", "rows", "users", "one-class"):
        table.add_column(column, justify="left" if column in ("split", "task") else "right")
    for split, tasks in by_split.items():
        for task, m in tasks.items():
            numbers = (m["auc"], m["gauc"], m["log_loss_nats"])
            counts = (m["rows"], m["users_scored"], m["users_one_class"])
            shown = ["-" if number is None else f"{number:.4f}" for number in numbers]
            table.add_row(split, task, *shown, *(f"{count:,}" for count in counts))
    return table


def models() -> None:
    """List the named models with their papers."""
    from finerank.models.registry import MODELS

    table = Table(box=None)
    for column in ("name", "what it is", "source"):
        table.add_column(column)
    for name, model in MODELS.items():
        what, _, source = inspect.cleandoc(model.__doc__ or "").partition("Source:")
        table.add_row(name, what.splitlines()[0], " ".join(source.split()))
    console().print(table)


def demo(
    out: Annotated[Path, typer.Option(help="Where the data and the runs go.")] = Path(".finerank"),
) -> None:
    """MovieLens-100K from raw logs to ten ranked films."""
    from finerank.demo import run_demo

    run_demo(out, console(), bars)
