"""What the functions of ``rows.c`` are called with."""

import ctypes
from ctypes import c_double, c_int64, c_void_p


class RowsOf(ctypes.Structure):
    """Rows of tables, and Adam's moments of all rows: ``Rows`` in C."""

    _fields_ = (
        ("shares", c_int64), ("count", c_int64), ("dim", c_int64), ("rows", c_void_p),
        ("moments", c_void_p), ("last_use", c_void_p), ("step", c_int64),
        ("beta_1", c_double), ("beta_2", c_double), ("eps", c_double), ("learning_rate", c_double),
    )  # fmt: skip
