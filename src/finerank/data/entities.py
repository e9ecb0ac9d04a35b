"""Users or items with their features, one row each; row 0 is the unknown one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finerank.data.storage import read_batch, read_columns
from finerank.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from finerank.data.batch import Column


@dataclass(frozen=True)
class Entities:
    """All users, or all items, that the log or their table names.

    Attributes:
        keys: raw id -> row.
        features: encoded, one row an entity.
        titles: what people call them ``(entities,)`` without the unknown row, or None.
    """

    keys: Vocabulary
    features: dict[str, Column]
    titles: pa.Array | None

    @classmethod
    def load(cls, folder: Path) -> Entities:
        """Memory-map what preparation wrote."""
        keys = read_batch(folder / "keys.arrow")
        has_features = (folder / "features.arrow").exists()
        return cls(
            keys=Vocabulary(keys.column("key")),
            features=read_columns(folder / "features.arrow") if has_features else {},
            titles=keys.column("title") if "title" in keys.schema.names else None,
        )

    def title(self, row: int) -> str | None:
        """What people call the entity of a row."""
        if self.titles is None or row == 0:
            return None
        title = self.titles[row - 1].as_py()
        return None if title is None else str(title)
