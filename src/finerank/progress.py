"""Telling a person how far a long step is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


class Progress(Protocol):
    """Opens a step of known or unknown size; the step is told how far it went, and a remark."""

    def __call__(self, step: str, total: int | None) -> AbstractContextManager[Callable[..., None]]:
        """Open a step."""


@contextlib.contextmanager
def silent(step: str, total: int | None) -> Iterator[Callable[..., None]]:  # noqa: ARG001
    """Say nothing."""

    def advance(amount: int = 1, remark: str = "") -> None:
        pass

    yield advance


@contextlib.contextmanager
def bars(step: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Draw a bar on standard error where that is a terminal, else say nothing."""
    # Who trains in silence needs none of it.
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        with silent(step, total) as advance:
            yield advance
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[remark]}"),
    )
    with progress.Progress(*columns, console=console, transient=True) as drawn:
        task = drawn.add_task(step, total=total, remark="")

        def advance(amount: int = 1, remark: str = "") -> None:
            drawn.update(task, advance=amount, remark=remark)

        yield advance
