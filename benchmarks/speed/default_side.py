"""finerank in the precision that it chooses itself: bfloat16 where the CPU has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import finerank_side

if TYPE_CHECKING:
    from pathlib import Path

    from cases import Case


class Side(finerank_side.Side):
    """finerank's side of a case, with the default precision."""

    def __init__(self, case: Case, work: Path, device: str) -> None:
        super().__init__(case, work, device, precision="auto")
