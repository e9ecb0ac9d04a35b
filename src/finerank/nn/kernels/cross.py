"""What the functions of ``cross.c`` are called with."""

import ctypes
from ctypes import c_int64, c_void_p


class CrossOf(ctypes.Structure):
    """Rows and the layers that cross them: ``Cross`` in C."""

    _fields_ = (
        ("shares", c_int64), ("rows", c_int64), ("width", c_int64), ("layers", c_int64),
        ("x", c_void_p), ("weight", c_void_p), ("shift", c_void_p),
    )  # fmt: skip
