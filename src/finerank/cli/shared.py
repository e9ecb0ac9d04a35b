"""What several commands share: their common options, and where they print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Out = Annotated[Path, typer.Option("--out", help="Where to write; replaced as a whole at the end.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace a setting of the recipe: key.key=value. Repeatable."),
]


def console() -> Console:
    """Standard output, as wide as it is now."""
    return Console()
