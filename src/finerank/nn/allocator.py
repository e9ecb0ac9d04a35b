"""Memory that a step frees is kept for the next one; what stays lies apart, in large pages."""

import contextlib
import ctypes
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGE = 2**17  # bytes: of a block, as glibc begins
_LARGEST_KEPT, _MOST_KEPT = 2**30, 2**31 - 1  # bytes: of one tensor, of the free end of the heap


def map_large_blocks() -> None:
    """Let the C library ask the system for each large block, where it is glibc; else do nothing.

    So what a training makes once, the states of its optimisers and oneDNN's code, does not lie
    between blocks that each step makes and frees: there it divides the free memory into pieces that
    fit less and less. It also goes back to the system when the training ends.
    """
    _set(_M_MMAP_THRESHOLD, _LARGE)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, where it is glibc; elsewhere do nothing.

    It gives large blocks back to the system as soon as they are freed, and the system clears each
    page of the next one when it is first touched: up to a sixth of a step that makes and frees the
    same large tensors as the one before. What a process needs at its peak stays the same.
    """
    _set(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    _set(_M_TRIM_THRESHOLD, _MOST_KEPT)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Like `torch.empty` on a CPU, in large pages where the system has them for who asks.

    NumPy asks for them, torch doesn't. Of a large table each row that a batch uses lies in another
    page, and the processor knows few pages at a time.
    """
    return _of_numpy(np.empty, shape, dtype)


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Like `torch.zeros` on a CPU, in large pages, that take up memory where they are written to.

    See `empty`.
    """
    return _of_numpy(np.zeros, shape, dtype)


def _of_numpy(make: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:  # noqa: ANN401
    count = math.prod(shape)
    room = make(max(1, count) * dtype.itemsize, dtype=np.uint8)  # it knows not all dtypes
    return torch.from_numpy(room).view(dtype)[:count].view(shape)


def _set(parameter: int, size: int) -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc
        ctypes.CDLL(None).mallopt(parameter, size)
