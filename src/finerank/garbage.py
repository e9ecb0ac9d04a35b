"""What Python's garbage collector has to look through."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FROZEN_BY_PYTHON = 1000  # at most: Python 3.12 freezes hundreds itself, who calls freeze thousands


@contextlib.contextmanager
def old_objects_left_alone() -> Iterator[None]:
    """Let the collector look through what is made meanwhile only, not through all there is.

    Once in a while it looks through everything that ever was imported, which takes it a tenth of a
    second where torch is among that. Where somebody has frozen objects already, nothing is done.
    """
    if gc.get_freeze_count() > _FROZEN_BY_PYTHON:
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
