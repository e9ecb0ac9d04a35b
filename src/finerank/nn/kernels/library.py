"""The compiled functions of this folder, on a CPU.

They are built with the package, for some instruction sets each; where none fits the processor, or
torch runs on threads that they can't share, there are none, and torch does their work.
"""

import ctypes
import hashlib
from ctypes import c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from finerank.nn import host

_FOLDER = Path(__file__).parent
ALIGNED = 16  # numbers, of which widths inside the functions are multiples
_BUILT = {"AVX512": "x86_64_v4", "AVX2": "x86_64_v3"}  # for what torch calls the processor's
_TYPES = {torch.float32, torch.float64, torch.int32, torch.int64}


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; it must be whole and live as long as it is used.

    Raises:
        ValueError: it lies in memory otherwise than the functions expect.
    """
    if tensor is None:
        return None
    if not tensor.is_contiguous() or tensor.dtype not in _TYPES or tensor.device.type != "cpu":
        found = f"{tensor.dtype}, {tensor.device}, strides {tensor.stride()}"
        raise ValueError(f"expected a whole tensor of {_TYPES}, found {found}")
    return tensor.data_ptr()


def serves(*tensors: Tensor) -> bool:
    """Whether the functions can be called with these tensors, on this machine."""
    return all(x.dtype == torch.float32 and host.is_readable(x) for x in tensors) and is_there()


def shares_of(rows: int, *, fewest: int) -> int:
    """How many shares so many rows are divided into, for a thread each, of at least ``fewest``."""
    return max(1, min(torch.get_num_threads(), rows // fewest))


def added_up(shares: Tensor) -> Tensor:
    """The sum of what several shares gave, in the memory of the first.

    Args:
        shares: ``(shares, ...)``; changed in place.
    """
    first, *others = shares.unbind(0)
    for each in others:
        first.add_(each)
    return first


def not_there(rows: Tensor, size: int) -> IndexError:
    """What to raise where a function found that not all rows are of a table of so many."""
    found = f"{int(rows.min())} to {int(rows.max())}"
    return IndexError(f"expected rows from 0 to {size - 1}, found {found}")


def is_there() -> bool:
    """Whether the functions can be called on this machine."""
    return functions() is not None


@cache
def functions() -> ctypes.CDLL | None:
    """The functions, running on torch's threads; None where there are none for this machine."""
    threads = _threads()
    instructions = _BUILT.get(torch.backends.cpu.get_cpu_capability())
    path = _FOLDER / f"kernels_{_digest()}_{instructions}.so"
    if not path.exists() or threads is None:
        return None
    found = ctypes.CDLL(str(path))
    found.finerank_threads.argtypes = [c_void_p]
    found.finerank_threads(threads)
    return found


def _digest() -> str:
    """Of the sources: functions of others are not used."""
    sources = sorted([*_FOLDER.glob("*.c"), *_FOLDER.glob("*.h")])
    return hashlib.sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()[:12]


def _threads() -> int | None:
    """The address of GOMP_parallel in the OpenMP library that torch has loaded."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    home = str(Path(torch.__file__).parent)
    of_torch = {path for path in paths if path.startswith(home)} or paths  # others may bring theirs
    if len(of_torch) != 1:
        return None
    return ctypes.cast(ctypes.CDLL(of_torch.pop()).GOMP_parallel, c_void_p).value


Given = TypeVar("Given", bound=ctypes.Structure)


def filled(kind: type[Given], *values: Tensor | float | None) -> Given:
    """A structure of numbers and of addresses of tensors, which must live as long as it is used."""
    return kind(*(value if isinstance(value, int | float) else address(value) for value in values))


def call(function: str, *arguments: ctypes.Structure | Tensor | int | None) -> None:
    """Call one of the functions; their sources say with what."""
    found = functions()
    assert found is not None
    compiled = getattr(found, f"finerank_{function}")
    compiled.restype = None
    compiled(*(_argument(each) for each in arguments))


def _argument(given: ctypes.Structure | Tensor | int | None) -> object:
    if isinstance(given, ctypes.Structure):
        return ctypes.byref(given)
    if isinstance(given, int):
        return c_int64(given)
    return c_void_p(address(given))
