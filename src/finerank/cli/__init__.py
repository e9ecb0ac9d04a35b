"""The command line."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from finerank.cli.check import check
from finerank.cli.data import append, prepare, recipe
from finerank.cli.scores import predict, rank
from finerank.cli.training import demo, evaluate, models, train
from finerank.errors import FinerankError

app = typer.Typer(
    name="finerank",
    help="The ranking stage of a recommender: from event logs to served scores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (recipe, prepare, append, check, train, evaluate, predict, rank, models, demo):
    app.command()(command)


def main() -> None:
    """Run the command line; a person's mistake ends with its message and exit code 2."""
    try:
        app()
    except (FinerankError, OSError) as error:
        Console(stderr=True).print("[bold red]error:[/]", end=" ")
        print(error, file=sys.stderr)  # noqa: T201  (no markup, no wrapping: easy to search for)
        sys.exit(2)
