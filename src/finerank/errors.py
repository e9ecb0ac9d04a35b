"""What a person did wrong: expected, found, where, what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class FinerankError(Exception):
    """A mistake in the input that a person can mend; the command line prints no traceback.

    The message reads ``WHERE: expected EXPECTED, found FOUND. FIX``.
    """

    def __init__(self, where: str, *, expected: str, found: str, fix: str = "") -> None:
        self.where, self.expected, self.found, self.fix = where, expected, found, fix
        message = f"{where}: expected {expected}, found {found}."
        super().__init__(f"{message} {fix}" if fix else message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known name and lists them all.

    >>> did_you_mean("ratng", ["rating", "user_id"])
    "Did you mean 'rating'? There is: rating, user_id."
    """
    known = [str(each) for each in known]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}There is: {', '.join(known) if known else 'nothing'}."
