"""finerank as it trains where nothing is said: Adam over every row, bfloat16 if it is there."""

from __future__ import annotations

from typing import ClassVar

import finerank_side


class Side(finerank_side.Side):
    """finerank's side of a case, with its own precision and optimiser."""

    training: ClassVar[dict[str, str]] = {}
