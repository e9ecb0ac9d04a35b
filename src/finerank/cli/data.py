"""The commands from raw logs to prepared data: `recipe`, `prepare` and `append`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from finerank.cli.shared import Out, Set, console
from finerank.progress import bars

if TYPE_CHECKING:
    from finerank.data.prepare import Prepared


class Engine(StrEnum):
    """The engines of `prepare`."""

    duckdb = "duckdb"
    spark = "spark"


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


def prepare(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    out: Out,
    set_: Set = None,
    memory: Annotated[
        str | None,
        typer.Option(help="What it may use; rather than more it spills to disk. Such as 2GB."),
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


def _print_report(done: Prepared) -> None:
    output, report = console(), done.manifest["report"]
    if done.unchanged:
        output.print(f"{done.folder}: nothing changed, nothing done.")
        return
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in report["rows_dropped"].items())
    output.print(
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
    output.print(table)
    if report["rows_repeated"]:
        output.print(f"{report['rows_repeated']:,} rows repeat another in all that is read of them")
    for warning in report["warnings"]:
        output.print(f"warning: {escape(warning)}")
    output.print(f"Prepared data set in {done.folder}")
