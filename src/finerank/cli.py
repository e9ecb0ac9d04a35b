"""The command line."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finerank.errors import FinerankError
from finerank.progress import bars

if TYPE_CHECKING:
    from collections.abc import Collection

    from finerank.checks.report import Report
    from finerank.data.prepare import Prepared
    from finerank.ranker import Ranker

app = typer.Typer(
    name="finerank",
    help="The ranking stage of a recommender: from event logs to served scores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option("--out", help="Where to write; replaced as a whole at the end.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace a setting of the recipe: key.key=value. Repeatable."),
]
History = Annotated[
    Path | None, typer.Option(help="A log with what users did so far, in place of the data set's.")
]


class Engine(StrEnum):
    """The engines of `prepare`."""

    duckdb = "duckdb"
    spark = "spark"


def main() -> None:
    """Run the command line; a person's mistake ends with its message and exit code 2."""
    try:
        app()
    except (FinerankError, OSError) as error:
        Console(stderr=True).print("[bold red]error:[/]", end=" ")
        print(error, file=sys.stderr)  # noqa: T201  (no markup, no wrapping: easy to search for)
        sys.exit(2)


def _console() -> Console:
    return Console()


@app.command()
def recipe(
    log: Annotated[
        str | None, typer.Argument(help="The event log: a file, a folder or a pattern.")
    ] = None,
    users: Annotated[str | None, typer.Option(help="A table with one row a user.")] = None,
    items: Annotated[str | None, typer.Option(help="A table with one row an item.")] = None,
    for_: Annotated[
        str | None,
        typer.Option("--for", help="A public data set, instead: its recipe, such as criteo."),
    ] = None,
) -> None:
    """Draft a recipe from the columns of a log, to be edited; printed to standard output."""
    from finerank.draft import draft_recipe
    from finerank.errors import FinerankError
    from finerank.shipped import shipped_recipe

    if (log is None) == (for_ is None):
        found = "neither" if log is None else "both"
        raise FinerankError("finerank recipe", expected="either a log or --for", found=found)
    text = (
        draft_recipe(str(log), users=users, items=items) if for_ is None else shipped_recipe(for_)
    )
    sys.stdout.write(text)


@app.command()
def prepare(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    out: Out,
    set_: Set = None,
    memory: Annotated[
        str | None,
        typer.Option(help="What the engine may use before it spills to disk, such as 2GB."),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="What reads, joins and sorts; the result is the same.")
    ] = Engine.duckdb,
    spark_master: Annotated[
        str | None, typer.Option(help="Where Spark runs, such as local[4]; as it is configured.")
    ] = None,
) -> None:
    """Turn raw logs and tables into a prepared data set."""
    from finerank.data.prepare import prepare as run
    from finerank.recipe import Recipe

    done = run(
        Recipe.load(recipe).override(set_ or []),
        out,
        memory=memory,
        engine=engine.value,
        spark_master=spark_master,
        progress=bars,
    )
    _print_report(done)


def _print_report(done: Prepared) -> None:
    console, report = _console(), done.manifest["report"]
    if done.unchanged:
        console.print(f"{done.folder}: nothing changed, nothing done.")
        return
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in report["rows_dropped"].items())
    console.print(
        f"{report['rows_in']:,} rows in, {dropped or 'none'} dropped; "
        f"{report['users']:,} users, {report['items']:,} items; {done.manifest['seconds']:.1f} s"
    )
    splits = list(report["rows"])
    table = Table(box=None)
    table.add_column("")
    for split in splits:
        table.add_column(split, justify="right")
    table.add_row("rows", *(f"{report['rows'][split]:,}" for split in splits))
    table.add_row("requests", *(f"{report['requests'][split]:,}" for split in splits))
    for task in report["label_rate"][splits[0]]:
        rates = (report["label_rate"][split][task] for split in splits)
        table.add_row(f"label rate {task}", *(f"{rate:.4f}" for rate in rates))
    for feature in report["unknown_rate"][splits[0]]:
        rates = (report["unknown_rate"][split][feature] for split in splits)
        size = report["vocabulary"].get(feature)
        name = f"unknown {feature}" + (f" (of {size:,} ids)" if size is not None else "")
        table.add_row(name, *(f"{rate:.4f}" for rate in rates))
    for history, events in report["events"].items():
        table.add_row(f"events of {history}", f"{events:,}")
    console.print(table)
    if report["rows_repeated"]:
        console.print(
            f"{report['rows_repeated']:,} rows repeat another in all that is read of them"
        )
    for warning in report["warnings"]:
        console.print(f"warning: {escape(warning)}")
    console.print(f"Prepared data set in {done.folder}")


@app.command()
def append(
    prepared: Annotated[Path, typer.Argument(help="A prepared data set.")],
    log: Annotated[list[str], typer.Argument(help="The log's new rows: files or patterns.")],
    out: Out,
    users: Annotated[str | None, typer.Option(help="The table of users now.")] = None,
    items: Annotated[str | None, typer.Option(help="The table of items now.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Shares of the new rows, such as valid=0.1,test=0.1.")
    ] = None,
    valid_from: Annotated[str | None, typer.Option(help="First time of validation.")] = None,
    test_from: Annotated[str | None, typer.Option(help="First time of test.")] = None,
    memory: Annotated[str | None, typer.Option(help="As in prepare.")] = None,
) -> None:
    """Extend a prepared data set with new rows of its log; the old ones are not read again."""
    from finerank.data.append import append as run

    pairs = [each.partition("=") for each in (split or "").split(",") if each]
    given = {key.strip(): value for key, _, value in pairs}
    given |= {"valid_from": valid_from} if valid_from else {}
    given |= {"test_from": test_from} if test_from else {}
    done = run(
        prepared,
        log=log,
        out=out,
        users=users,
        items=items,
        split=given or None,
        memory=memory,
        progress=bars,
    )
    _print_report(done)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A prepared data set.")],
    sample: Annotated[int, typer.Option(help="Examples to recompute from the raw log.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of which examples those are.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """Prove on a prepared data set that nothing leaks; exit code 1 where something does."""
    from finerank.checks.checker import check as run

    report = run(folder, sample=sample, seed=seed, progress=bars)
    if as_json:
        sys.stdout.write(json.dumps(report.to_json(), indent=2) + "\n")
    else:
        _print_checks(report)
    if not report.passed:
        raise typer.Exit(1)


def _print_checks(report: Report) -> None:
    console = _console()
    table = Table(box=None)
    for column in ("check", "", "claim"):
        table.add_column(column)
    for each in report.checks:
        table.add_row(escape(each.name), each.status, escape(each.what))
    console.print(table)
    for each in report.checks:
        if each.counterexample:
            console.print(f"failed: {escape(each.name)}: {escape(each.counterexample)}")
    for limit in report.limits:
        console.print(f"not checked: {escape(limit)}, a setting that this check doesn't know")
    console.print()
    console.print(_rates_table(report))
    if report.duplicates is not None:
        console.print(f"{report.duplicates:,} examples repeat another's user, item and time")
    if report.users_in_several_splits is not None:
        console.print(f"{report.users_in_several_splits:.1%} of the users are in several splits")
    for warning in report.warnings:
        console.print(f"warning: {escape(warning)}")


def _rates_table(report: Report) -> Table:
    splits = list(report.label_rate)
    table = Table(box=None)
    for column in ("", *splits, "drift"):
        table.add_column(column, justify="right" if column else "left")
    for task in report.label_rate[splits[0]]:
        rates = (f"{report.label_rate[split][task]:.4f}" for split in splits)
        table.add_row(f"label rate {task}", *rates)
    for feature in report.unknown_rate[splits[0]]:
        rates = (f"{report.unknown_rate[split][feature]:.4f}" for split in splits)
        drift = report.drift.get(feature)
        table.add_row(f"unknown {feature}", *rates, "" if drift is None else f"{drift:.3f}")
    return table


@app.command()
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
    console = _console()
    console.print(
        f"{done.metrics['model']}: {training['parameters']:,} parameters, best epoch "
        f"{training['best_epoch']} of {training['epochs']}, {training['seconds']:.1f} s, "
        f"{training['samples_per_s']:,.0f} samples/s, peak memory "
        f"{training['peak_memory_mb']:,.0f} MiB"
    )
    console.print(_metrics_table({s: done.metrics[s] for s in ("valid", "test")}))
    for warning in done.metrics.get("gates", {}).get("warnings", ()):
        console.print(f"warning: {warning}")
    console.print(f"Run in {done.folder}")


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


@app.command()
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
        _console().print(_metrics_table({split: metrics}))


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a run's folder.")],
    rows: Annotated[str, typer.Argument(help="Rows with the log's columns: a file or a folder.")],
    out: Annotated[Path, typer.Option("--out", help="The Parquet file to write.")],
    history: History = None,
) -> None:
    """Score raw rows; writes their user, item, time and a column score_TASK for each task."""
    import pyarrow.parquet as pq

    from finerank.ranker import Ranker

    ranker = Ranker.load(bundle, history=history)
    _note_lack_of_past(ranker)
    scores = ranker.predict(rows)
    unfinished = out.with_name(f".{out.name}.unfinished")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        pq.write_table(scores, unfinished)
        unfinished.rename(out)
    finally:
        unfinished.unlink(missing_ok=True)
    _console().print(f"{scores.num_rows:,} rows scored, in {out}")


@app.command()
def rank(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a run's folder.")],
    user: Annotated[str, typer.Option(help="The user's id.")],
    candidates: Annotated[str, typer.Option(help="Ids of items, separated by commas.")],
    history: History = None,
    time: Annotated[str | None, typer.Option(help="Of the request, as in the log; now.")] = None,
    context: Annotated[
        list[str] | None, typer.Option(help="A column of the log: name=value. Repeatable.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="The task to order by; the first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """Score the candidates of one user, best first."""
    from finerank.ranker import Ranker

    ranker = Ranker.load(bundle, history=history)
    _note_lack_of_past(ranker)
    ids = [each.strip() for each in candidates.split(",") if each.strip()]
    given = dict(_key_value(each, lists=ranker.list_columns) for each in context or [])
    ranked = ranker.rank(user=user, candidates=ids, time=_as_time(time), context=given, by=by)
    if as_json:
        sys.stdout.write(json.dumps([vars(each) for each in ranked], indent=2, default=str) + "\n")
        return
    table = Table(box=None)
    for column in ("", "item", "title", *(f"{task}" for task in ranker.schema.tasks)):
        table.add_column(column, justify="left" if column == "title" else "right")
    for place, each in enumerate(ranked, start=1):
        title = each.title or ("" if each.known else "(never seen)")
        scores = (f"{score:.4f}" for score in each.scores.values())
        table.add_row(str(place), escape(str(each.item)), escape(title), *scores)
    _console().print(table)


def _note_lack_of_past(ranker: Ranker) -> None:
    if ranker.lacks_past:
        print(  # noqa: T201
            f"note: the data set {ranker.bundle.dataset} is gone or was prepared anew, so every "
            "history is empty. Give --history LOG to score with histories.",
            file=sys.stderr,
        )


def _as_time(text: str | None) -> int | float | datetime | None:
    """A time as the log may hold it: a number, or a date and time in ISO form."""
    if text is None:
        return None
    for kind in (int, float, datetime.fromisoformat):
        with contextlib.suppress(ValueError):
            return kind(text)
    raise FinerankError(
        f"--time {text}", expected="a number, or a time such as 2024-05-01T12:00", found="neither"
    )


def _key_value(text: str, *, lists: Collection[str]) -> tuple[str, object]:
    """A column and its value: text, or what YAML makes of a list where the column holds lists."""
    key, equals, value = text.partition("=")
    if not equals:
        raise FinerankError(f"--context {text}", expected="name=value", found="no '='")
    if key not in lists:
        return key, value
    import yaml

    found = None
    with contextlib.suppress(yaml.YAMLError):
        found = yaml.safe_load(value)
    if not isinstance(found, list) and value != "null":
        raise FinerankError(f"--context {text}", expected="a list such as [12, 15]", found=value)
    return key, found


@app.command()
def models() -> None:
    """List the named models with their papers."""
    from finerank.models.registry import MODELS

    table = Table(box=None)
    for column in ("name", "what it is", "source"):
        table.add_column(column)
    for name, model in MODELS.items():
        what, _, source = inspect.cleandoc(model.__doc__ or "").partition("Source:")
        table.add_row(name, what.splitlines()[0], " ".join(source.split()))
    _console().print(table)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the data and the runs go.")] = Path(".finerank"),
) -> None:
    """MovieLens-100K from raw logs to ten ranked films."""
    from finerank.demo import run_demo

    run_demo(out, _console(), bars)
