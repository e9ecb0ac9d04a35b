"""Features under names that no column of ours has; a feature may be called ``time``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from finerank.data.batch import Column

_PREFIX = "feature."


def with_prefix(features: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """Features under their names in a file."""
    return {f"{_PREFIX}{name}": array for name, array in features.items()}


def without_prefix(columns: Mapping[str, Column]) -> dict[str, Column]:
    """The features among the columns of a file."""
    return {
        name.removeprefix(_PREFIX): column
        for name, column in columns.items()
        if name.startswith(_PREFIX)
    }
