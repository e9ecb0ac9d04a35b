"""finerank: the ranking stage of a recommender, from event logs to served scores.

>>> import finerank
>>> print(*sorted(finerank.__all__))
Dataset FinerankError Ranker Recipe append check evaluate load prepare train
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finerank.checks.checker import check
    from finerank.data.append import append
    from finerank.data.dataset import Dataset
    from finerank.data.prepare import prepare
    from finerank.errors import FinerankError
    from finerank.ranker import Ranker
    from finerank.ranker import load_ranker as load
    from finerank.recipe import Recipe
    from finerank.run import evaluate_run as evaluate
    from finerank.run import train

__all__ = [
    "Dataset",
    "FinerankError",
    "Ranker",
    "Recipe",
    "append",
    "check",
    "evaluate",
    "load",
    "prepare",
    "train",
]
__version__ = version("finerank")

# How long torch's threads spin, waiting for each other, before they sleep: GNU OpenMP's measure
# for a busy machine, some 15 microseconds, not a millisecond. On two cores a DIN's step then takes
# 32 ms, as with the millisecond, 40 ms without spinning; where two trainings share the cores, 66,
# not 162 ms, and 57 without spinning. Read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_HOMES = {
    "Dataset": ("finerank.data.dataset", "Dataset"),
    "FinerankError": ("finerank.errors", "FinerankError"),
    "Ranker": ("finerank.ranker", "Ranker"),
    "Recipe": ("finerank.recipe", "Recipe"),
    "append": ("finerank.data.append", "append"),
    "check": ("finerank.checks.checker", "check"),
    "evaluate": ("finerank.run", "evaluate_run"),
    "load": ("finerank.ranker", "load_ranker"),
    "prepare": ("finerank.data.prepare", "prepare"),
    "train": ("finerank.run", "train"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load a name where it is first used, so that `finerank --help` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'finerank' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])
