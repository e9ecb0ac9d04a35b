"""What the functions of ``lookups.c`` are called with."""

import ctypes
from ctypes import c_int64, c_void_p


class LookupsOf(ctypes.Structure):
    """Columns of places, and what lies there: ``Lookups`` in C."""

    _fields_ = (
        ("shares", c_int64), ("rows", c_int64), ("columns", c_int64), ("dim", c_int64),
        ("width", c_int64), ("weight_row", c_int64), ("places", c_void_p), ("first", c_void_p),
        ("first_vector", c_void_p), ("weight_column", c_void_p), ("count", c_int64),
        ("vectors", c_void_p), ("weight", c_void_p),
    )  # fmt: skip
