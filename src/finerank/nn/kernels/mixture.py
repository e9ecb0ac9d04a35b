"""What the functions of ``mixture.c`` are called with."""

import ctypes
from ctypes import c_int64, c_void_p


class MixtureOf(ctypes.Structure):
    """Sizes, and the experts' outputs: ``Mixture`` in C."""

    _fields_ = (
        ("shares", c_int64), ("rows", c_int64), ("gates", c_int64), ("experts", c_int64),
        ("width", c_int64), ("outputs", c_void_p),
    )  # fmt: skip
