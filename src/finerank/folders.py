"""Folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Iterator

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # from <linux/fs.h>


@contextlib.contextmanager
def written_whole(folder: Path, *, marker: str) -> Iterator[Path]:
    """Write a folder under a temporary name and put it in its place at the end.

    Whoever reads, even after a kill at any moment, finds the old folder or the new one.

    Args:
        folder: where it will stand; replaced only if empty or if it holds the marker.
        marker: a file that every folder of this kind has.

    Raises:
        FinerankError: something else stands there.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder / marker).exists() and not _is_empty(folder):
        raise FinerankError(
            str(folder),
            expected=f"no folder, an empty one, or one written by finerank (with {marker})",
            found="something else",
            fix="Choose another --out.",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            _exchange(temporary, folder)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step where the system can, else in two renames."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        rename = None
    if rename is not None:
        names = os.fsencode(one), os.fsencode(other)
        if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
    aside = one.with_name(f"{one.name}-old")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
