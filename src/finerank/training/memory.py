"""How much memory a step of the work took."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

_KIB, _MIB = 1024, 1024**2


def reset_peak() -> None:
    """Start measuring anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """The most memory that the process has had resident since `reset_peak`, in MiB.

    Pages of memory-mapped files count while they are resident.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(each for each in lines if each.startswith("VmHWM"))
        return int(line.split()[1]) / _KIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else _KIB)
