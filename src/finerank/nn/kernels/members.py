"""What the functions of ``members.c`` are called with."""

import ctypes
from ctypes import c_int64, c_void_p


class MembersOf(ctypes.Structure):
    """Linear maps side by side, and their input: ``Members`` in C."""

    _fields_ = (
        ("shares", c_int64), ("rows", c_int64), ("members", c_int64), ("inputs", c_int64),
        ("outputs", c_int64), ("relu", c_int64), ("input", c_void_p), ("weight", c_void_p),
    )  # fmt: skip
