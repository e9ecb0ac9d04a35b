"""The command `check`, and how it prints what was found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from finerank.cli.shared import console
from finerank.progress import bars

if TYPE_CHECKING:
    from finerank.checks.report import Report


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
    output = console()
    table = Table(box=None)
    for column in ("check", "", "claim"):
        table.add_column(column)
    for each in report.checks:
        table.add_row(escape(each.name), each.status, escape(each.what))
    output.print(table)
    for each in report.checks:
        if each.counterexample:
            output.print(f"failed: {escape(each.name)}: {escape(each.counterexample)}")
    for limit in report.limits:
        output.print(f"not checked: {escape(limit)}, a setting that this check doesn't know")
    output.print()
    output.print(_rates_table(report))
    if report.duplicates is not None:
        output.print(f"{report.duplicates:,} examples repeat another's user, item and time")
    if report.users_in_several_splits is not None:
        output.print(f"{report.users_in_several_splits:.1%} of the users are in several splits")
    for warning in report.warnings:
        output.print(f"warning: {escape(warning)}")


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
