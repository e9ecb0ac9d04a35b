"""One measurement in a process of its own; prints one line of JSON. `run.py` starts it.

python benchmarks/speed/one.py CASE LIBRARY MEASURE --work DIR [--seconds S --scale X ...]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

# Before torch is loaded: threads that spin while they wait stop each other on a shared core.
# finerank sets this for itself; here every library gets it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from cases import ALL, LIBRARIES
from measure import Clock, Enough, memory_mb, versions


def measure(
    case: str, library: str, measure: str, work: Path, *, seconds: float, scale: float, device: str
) -> dict[str, Any]:
    """Set a case up, then time what is measured of it."""
    sized = ALL[case].scaled(scale)
    side = importlib.import_module(f"{library}_side").Side(sized, work, device)
    before_mb = memory_mb("VmRSS")
    if sized.kind == "evaluate":
        samples, took = side.evaluate(measure)
        result = {"samples": samples, "seconds": took, "samples_per_s": samples / took}
    elif sized.kind == "prepare":
        samples, took = side.prepare()
        result = {"samples": samples, "seconds": took, "samples_per_s": samples / took}
    else:
        clock = Clock(seconds)
        with suppress(Enough):
            side.train(measure, clock)
        result = clock.result()
    return {
        "case": case,
        "library": library,
        "measure": measure,
        **result,
        "memory_before_mb": before_mb,
        "memory_peak_mb": memory_mb("VmHWM"),
        "threads": torch.get_num_threads(),
        "device": device,
        "scale": scale,
        "versions": versions(library),
    }


def main() -> None:
    """Measure what the command line names; the libraries' own output goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=ALL)
    parser.add_argument("library", choices=[*LIBRARIES, "floor"])
    parser.add_argument("measure")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with redirect_stdout(sys.stderr):
        result = measure(
            given.case,
            given.library,
            given.measure,
            given.work.resolve(),
            seconds=given.seconds,
            scale=given.scale,
            device=given.device,
        )
    print(json.dumps(result), flush=True)
    os._exit(0)  # worker processes and threads of a loader that was cut off are not waited for


if __name__ == "__main__":
    main()
