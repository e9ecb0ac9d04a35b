"""The steps of a history that the log's rows hold ready-made, as prepared.

Shapes: ``N`` steps of all rows, those of a row oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from finerank.data.arrow_file import read_columns
from finerank.data.prefixed import without_prefix

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from finerank.data.batch import Column


@dataclass(frozen=True)
class ListStore:
    """The steps of a ready-made history, those of one request after those of another.

    Attributes:
        item: row of each step's item ``(N,)``, or None where nothing is looked up by it.
        columns: the features that the lists hold.
    """

    item: Tensor | None
    columns: dict[str, Column]

    @classmethod
    def load(cls, folder: Path) -> ListStore:
        """Memory-map what preparation wrote."""
        columns = read_columns(folder / "events.arrow")
        item = columns.pop("item", None)
        assert item is None or isinstance(item, torch.Tensor)
        return cls(item, without_prefix(columns))
