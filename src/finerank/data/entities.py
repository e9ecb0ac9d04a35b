"""Users or items with their features, one row each; row 0 is the unknown one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from finerank.data.arrow_file import mapped, read_columns

if TYPE_CHECKING:
    from mmap import mmap
    from pathlib import Path

    import pyarrow as pa

    from finerank.data.batch import Column
    from finerank.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Entities:
    """All users, or all items, that the log or their table names.

    Attributes:
        named: the file of their raw ids and of what people call them, mapped.
        features: encoded, one row an entity.
    """

    named: mmap
    features: dict[str, Column]

    @classmethod
    def load(cls, folder: Path) -> Entities:
        """Memory-map what preparation wrote."""
        features = folder / "features.arrow"
        return cls(
            mapped(folder / "keys.arrow"), read_columns(features) if features.exists() else {}
        )

    @cached_property
    def keys(self) -> Vocabulary:
        """Raw id -> row."""
        from finerank.data.vocabulary import Vocabulary  # noqa: PLC0415  (see `_names`)

        return Vocabulary(self._names.column("key"))

    @cached_property
    def titles(self) -> pa.Array | None:
        """What people call them ``(entities,)`` without the unknown row, or None."""
        return self._names.column("title") if "title" in self._names.schema.names else None

    @cached_property
    def _names(self) -> pa.RecordBatch:
        # Training needs neither names nor pyarrow, 40 MB.
        from finerank.data.storage import batch_of  # noqa: PLC0415

        return batch_of(self.named)

    def title(self, row: int) -> str | None:
        """What people call the entity of a row."""
        if self.titles is None or row == 0:
            return None
        title = self.titles[row - 1].as_py()
        return None if title is None else str(title)
