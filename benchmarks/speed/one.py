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

# Before torch is loaded: threads that spin for long stop each other on a shared core. finerank
# sets this for itself; here every library gets it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from cases import ALL, LIBRARIES, Case
from measure import Clock, Enough, memory_mb, versions


def measured(
    case: Case, library: str, measure: str, work: Path, *, seconds: float, device: str
) -> dict[str, Any]:
    """Set a case up, then time what is measured of it."""
    side = importlib.import_module(f"{library}_side").Side(case, work, device)
    before_mb = memory_mb("VmRSS")
    if case.kind in ("evaluate", "prepare"):
        samples, took = side.evaluate(measure) if case.kind == "evaluate" else side.prepare()
        result = {"samples": samples, "seconds": took, "samples_per_s": samples / took}
    else:
        clock = Clock(seconds, wait=torch.cuda.synchronize) if device == "cuda" else Clock(seconds)
        with suppress(Enough):
            side.train(measure, clock)
        result = clock.result()
    return {
        "case": case.name,
        "library": library,
        "measure": measure,
        **result,
        "memory_before_mb": before_mb,
        "memory_peak_mb": max(before_mb, memory_mb("VmHWM")),  # the system notes it late
        "threads": torch.get_num_threads(),
        "device": device,
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
        result = measured(
            ALL[given.case].scaled(given.scale),
            given.library,
            given.measure,
            given.work.resolve(),
            seconds=given.seconds,
            device=given.device,
        )
    print(json.dumps({**result, "scale": given.scale}), flush=True)
    os._exit(0)  # worker processes and threads of a loader that was cut off are not waited for


if __name__ == "__main__":
    main()
