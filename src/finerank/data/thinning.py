"""Negatives of the log thinned out: training keeps a share of its rows without a label of 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finerank.data.negatives import is_positive
from finerank.data.splits import NO_EXAMPLE, TRAIN, drawn
from finerank.errors import FinerankError

if TYPE_CHECKING:
    import ibis

    from finerank.data.engine import Engine
    from finerank.recipe import Recipe

Counted = dict[str, dict[str, list[int]]]


def thinned(rows: ibis.Table, recipe: Recipe, engine: Engine) -> tuple[ibis.Table, int, Counted]:
    """The rows with a share of the training negatives only: the others are examples no more.

    A negative here is a row all of whose known labels are 0. Those of validation and test stay;
    a column ``thinned`` says which of them will be left out once they train.

    Args:
        engine: holds the rows.

    Returns:
        The rows, how many were left out, and under ``train`` for each task how many of its labels
        of 0 training keeps, of how many; under ``later`` the same of the rows of validation and
        test, once they train.

    Raises:
        FinerankError: nothing is left of a task's labels of 0.
    """
    settings = recipe.negatives
    assert settings is not None
    assert settings.keep is not None
    share, seed = settings.keep, f"keep {settings.seed}"
    rows = engine.per_row(
        rows, lambda rows: rows.mutate(drawn=drawn(rows, share, seed, split=TRAIN))
    )
    train, kept = rows.split == TRAIN, is_positive(rows, recipe) | rows.drawn
    parts = {"train": train, "later": (rows.split != TRAIN) & (rows.split != NO_EXAMPLE)}
    sums = {"left_out": (train & ~kept).sum()}
    for part, within in parts.items():
        for task in recipe.tasks:
            of_0 = within & (rows[f"label.{task}"] == 0)
            sums |= {f"{part}.{task}": of_0.sum(), f"{part}.{task}.kept": (of_0 & kept).sum()}
    found = rows.agg(**sums).to_pyarrow().to_pylist()[0]
    counted: Counted = {
        part: {
            task: [int(found[f"{part}.{task}{each}"] or 0) for each in (".kept", "")]
            for task in recipe.tasks
        }
        for part in parts
    }
    for task, (some, all_) in counted["train"].items():
        if some == 0 and all_ > 0:
            raise FinerankError(
                "negatives.keep",
                expected=f"a share that leaves labels of 0 for {task}",
                found=f"{settings.keep} of {all_} rows",
            )
    split = (train & ~kept).ifelse(NO_EXAMPLE, rows.split).cast("int8")
    rows = rows.mutate(split=split, thinned=parts["later"] & ~kept).drop("drawn")
    return rows, int(found["left_out"] or 0), counted


def shares_kept(counted: Counted) -> dict[str, float]:
    """For each task the share of its labels of 0 that training keeps, of what `thinned` counted.

    A row whose other label is 1 stays, so these are at least ``negatives.keep``.
    """
    return {task: some / all_ if all_ else 1.0 for task, (some, all_) in counted["train"].items()}
