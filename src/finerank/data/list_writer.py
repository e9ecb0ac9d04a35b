"""Ready-made histories on their way to disk: each list once, and the window of each row."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finerank.data.lists import Listed, read_lists
from finerank.data.prefixed import with_prefix
from finerank.data.storage import ColumnWriter, read_batch
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from finerank.data.row_encoder import RowEncoder
    from finerank.recipe import Recipe

_ROWS_A_PIECE = 500_000

Windows = tuple[np.ndarray, np.ndarray]


class ListWriter:
    """Writes the steps of ready-made histories; rows with the same steps in a row share them.

    Args:
        earlier: a prepared data set whose steps come first, as they are.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, encoder: RowEncoder, *, earlier: Path | None = None
    ) -> None:
        self.recipe, self.encoder = recipe, encoder
        self._folder, self._earlier = folder, earlier
        self._stack = contextlib.ExitStack()
        self._writers: dict[str, ColumnWriter] = {}
        self._last: dict[str, Listed] = {}  # the row before
        self._last_window: dict[str, tuple[int, int]] = {}

    def add(self, piece: pa.RecordBatch) -> tuple[np.ndarray, dict[str, Windows]]:
        """Write the steps of a piece.

        Returns:
            Where the steps of any history differ from those of the row before ``(rows,)``, and
            history -> where each row's steps begin and end ``(rows,)``.
        """
        differs, windows = np.zeros(piece.num_rows, dtype=bool), {}
        for name in self.recipe.list_histories:
            listed = read_lists(piece, name, self.recipe, self.encoder)
            changes = listed.changes(self._last.get(name))
            windows[name] = self._write(name, listed, changes)
            differs |= changes
            self._last[name] = listed.take(np.array([len(listed) - 1]))
        return differs, windows

    def _write(self, name: str, listed: Listed, changes: np.ndarray) -> Windows:
        new = listed.take(np.flatnonzero(changes))
        columns = with_prefix(new.features)
        if new.item is not None:
            columns["item"] = pa.array(new.item)
        if name not in self._writers:
            kinds = pa.schema([(each, array.type) for each, array in columns.items()])
            self._open(name, kinds)
        writer = self._writers[name]
        bounds = writer.rows + new.offsets
        writer.append(columns)
        before, end_before = self._last_window.get(name, (0, 0))
        starts = np.concatenate([[before], bounds[:-1]])
        ends = np.concatenate([[end_before], bounds[1:]])
        of_row = np.cumsum(changes)  # 0: as the row before the piece
        self._last_window[name] = int(starts[-1]), int(ends[-1])
        return starts[of_row], ends[of_row]

    def _open(self, name: str, kinds: pa.Schema) -> None:
        here = Path("events") / name / "events.arrow"
        writer = self._stack.enter_context(ColumnWriter(self._folder / here, kinds))
        self._writers[name] = writer
        if self._earlier is not None:
            old = read_batch(self._earlier / here)
            for first in range(0, old.num_rows, _ROWS_A_PIECE):
                piece = old.slice(first, _ROWS_A_PIECE)
                writer.append({each: piece.column(each) for each in kinds.names})

    def end(self) -> dict[str, int]:
        """Close the stores, and say how many steps each has.

        Raises:
            FinerankError: no row has a step of a history.
        """
        self.close()
        for name, writer in self._writers.items():
            if not writer.rows:
                raise FinerankError(
                    f"histories.{name}.lists",
                    expected="lists with steps in some rows of the log",
                    found="empty ones only",
                )
        return {name: writer.rows for name, writer in self._writers.items()}

    def close(self) -> None:
        """Close what is open; needed where something failed in between."""
        self._stack.close()
