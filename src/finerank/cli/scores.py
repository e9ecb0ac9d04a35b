"""The commands that score: `predict` and `rank`."""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from finerank.cli.shared import console
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Collection

    from finerank.ranker import Ranker

History = Annotated[
    Path | None, typer.Option(help="A log with what users did so far, in place of the data set's.")
]


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
    console().print(f"{scores.num_rows:,} rows scored, in {out}")


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
    console().print(table)


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
