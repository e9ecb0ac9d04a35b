"""The compiled functions of ``pair_kernels.c``: the attention's MLP over pairs, on a CPU.

They are built with the package, for some instruction sets each; where none fits the processor, or
torch runs on threads that they can't share, there are none and `finerank.nn.pair_linear` is used.

Shape letter: ``W`` a layer's width filled up to a multiple of 16.
"""

import ctypes
import hashlib
from ctypes import c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_BUILT = {"AVX512": "x86_64_v4", "AVX2": "x86_64_v3"}  # for what torch calls the processor's


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


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; it must be whole and live as long as it is used."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    assert tensor.dtype in {torch.float32, torch.float64, torch.int64}
    return tensor.data_ptr()


@cache
def library() -> ctypes.CDLL | None:
    """The functions, running on torch's threads; None where there are none for this machine."""
    source, threads = Path(__file__).with_suffix(".c"), _threads()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    instructions = _BUILT.get(torch.backends.cpu.get_cpu_capability())
    path = source.with_name(f"{source.stem}_{digest}_{instructions}.so")
    if not path.exists() or threads is None:
        return None
    found = ctypes.CDLL(str(path))
    found.finerank_threads.argtypes = [c_void_p]
    found.finerank_threads(threads)
    return found


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


def call(function: str, *arguments: ctypes.Structure | Tensor | int | None) -> None:
    """Call one of the functions; `pair_kernels.c` says with what."""
    found = library()
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
