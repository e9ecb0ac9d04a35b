"""What the functions of ``pairs.c`` are called with.

Shape letter: ``W`` a layer's width filled up to a multiple of 16.
"""

import ctypes
from ctypes import c_int64, c_void_p


class PairsOf(ctypes.Structure):
    """Which candidate and step each pair is of, and what they are: ``Pairs`` in C."""

    _fields_ = (
        ("shares", c_int64), ("bounds", c_void_p), ("offsets", c_void_p), ("first_step", c_void_p),
        ("candidate", c_void_p), ("values", c_void_p), ("dim", c_int64), ("step_dim", c_int64),
        ("joint", c_int64),
    )  # fmt: skip


class Activation(ctypes.Structure):
    """An activation's numbers ``(W,)``, as in C; those that are None are not there."""

    _fields_ = tuple(
        (name, c_void_p) for name in ("alpha", "mean", "inverse_std", "scale", "slope", "constant")
    )


class Upstream(ctypes.Structure):
    """Where a layer's gradient comes from, as in C."""

    _fields_ = (("of_logit", c_void_p), ("last_weight", c_void_p), ("stored", c_void_p))
