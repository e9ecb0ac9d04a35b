"""Times of any type as numbers that compare as they do."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Times = np.ndarray


def as_times(values: pa.Array) -> Times:
    """Times as numbers that compare as they do: int64, or float64 for fractions.

    Dates and times become microseconds since 1970 (UTC); numbers stay what they are.

    Raises:
        ValueError: neither a number nor a date nor a time.
    """
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        # a time zone only changes how a moment is shown, not when it is
        micros = values.cast(pa.timestamp("us", getattr(values.type, "tz", None)), safe=False)
        return micros.cast(pa.int64()).to_numpy(zero_copy_only=False)
    if pa.types.is_integer(values.type):
        return values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        return pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
    msg = f"numbers, dates or times, found {values.type}"
    raise ValueError(msg)
