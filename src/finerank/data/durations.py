"""Durations of a recipe, such as 12h, in the unit of the log's times."""

from __future__ import annotations

from finerank.errors import FinerankError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MICROSECONDS = 1_000_000


def as_duration(written: float | str, *, numbers: bool, where: str) -> int | float:
    """A duration as what prepared times are: microseconds, or the unit of a column of numbers.

    Args:
        written: a number, or text such as 12h.
        numbers: whether the log's times are numbers, not dates or times.
        where: the key of the recipe that holds it.

    Raises:
        FinerankError: text where the times are numbers, whose unit nobody knows; or the reverse.
    """
    if numbers and isinstance(written, str):
        raise FinerankError(
            where,
            expected="a number, in the unit of log.time, whose values are numbers",
            found=repr(written),
            fix="Such as 3600 where the times are seconds.",
        )
    if not numbers and not isinstance(written, str):
        raise FinerankError(
            where,
            expected="a duration such as 30m, 12h or 7d, as log.time holds dates or times",
            found=str(written),
        )
    if isinstance(written, str):
        return int(written[:-1]) * _SECONDS[written[-1]] * _MICROSECONDS
    return written
