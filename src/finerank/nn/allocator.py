"""Memory that a step frees is kept for the next one."""

import contextlib
import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_KEPT, _MOST_KEPT = 2**30, 2**31 - 1  # bytes: of one tensor, of the free end of the heap


@cache
def keep_freed_memory() -> None:
    """Let the C library keep what is freed, where it is glibc; elsewhere do nothing.

    It gives large blocks back to the system as soon as they are freed, and the system clears each
    page of the next one when it is first touched: up to a sixth of a step that makes and frees the
    same large tensors as the one before. What a process needs at its peak stays the same.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
