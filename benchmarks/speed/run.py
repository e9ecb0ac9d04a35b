"""Speed side by side: finerank and other libraries, same data, sizes, threads; writes the page.

python benchmarks/speed/run.py [CASE ...] [--rounds 3] [--only finerank fuxictr] [--scale 0.02]

A CASE is a name or a letter of `cases.py`: a to g, or scaling; all but scaling where none is named.
Each measurement is a process of its own. A round measures every library once, one after another, so
that what else the machine does meets all of them; of the other libraries, later rounds measure the
two that were fastest in the first. The cases of the scaling, which are compared with each other,
take their rounds in turn. Results of other cases stay as they are. With a scale, which is for
trying things out, the page goes to the work folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import chain, groupby, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cases import ALL, LIBRARIES, OURS, PEERS, SCALING, Case, chosen
from measure import cpu_name
from page import write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
LIMIT_S = 600  # of one process
SLOW_S = 30  # a measurement that took longer is not repeated in later rounds
REPEATED = 2  # other libraries, the fastest of the first round


def main() -> None:
    """Run what the command line names."""
    run(parser().parse_args())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    given = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given.add_argument("cases", nargs="*", help="names or letters")
    given.add_argument("--rounds", type=int, default=3)
    given.add_argument("--only", nargs="+", choices=LIBRARIES, default=LIBRARIES)
    given.add_argument("--measures", nargs="+", help="as end to end, step; all where left out")
    given.add_argument("--seconds", type=float, default=5, help="of a training measurement")
    given.add_argument("--scale", type=float, default=1, help="of the rows, for trying things out")
    given.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    given.add_argument("--work", type=Path, default=Path("runs/speed"), help="data and folders")
    given.add_argument("--out", type=Path, help="folder of the page")
    given.set_defaults(device="cpu", device_name="")
    return given


def run(given: argparse.Namespace) -> None:
    """Measure, round by round, and write the page after each case."""
    cases = chosen(given.cases)
    if not cases:
        names = sorted({each for case in ALL.values() for each in (case.letter, case.name)})
        sys.exit(f"expected cases among {', '.join(names)}, found {' '.join(given.cases)}")
    scaled = given.scale != 1
    out: Path = given.out or (given.work / f"scale-{given.scale}" if scaled else HERE)
    out.mkdir(parents=True, exist_ok=True)
    file = out / ("results.json" if given.device == "cpu" else f"results-{given.device}.json")
    kept = json.loads(file.read_text())["measurements"] if file.exists() else []
    for _, group in groupby(cases, key=lambda case: case.letter if case in SCALING else case.name):
        together = list(group)
        kept = [each for each in kept if not is_renewed(each, together, given)]
        for rounds in zip_longest(*(rounds_of(case, given) for case in together), fillvalue=[]):
            kept += chain(*rounds)
        file_name = Path(sys.argv[0]).name
        results = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "cpu": cpu_name(),
            "threads": given.threads,
            "device": given.device,
            "device_name": given.device_name,
            "command": shlex.join(["python", f"benchmarks/speed/{file_name}", *sys.argv[1:]]),
            "measurements": kept,
        }
        file.write_text(json.dumps(results, indent=1))
        write(results, file)


def is_renewed(result: dict[str, Any], cases: Sequence[Case], given: argparse.Namespace) -> bool:
    """Whether a result of an earlier run is measured again."""
    return (
        result["case"] in {case.name for case in cases}
        and result["library"] in (*given.only, "floor")
        and result["measure"] in (given.measures or [result["measure"]])
    )


def rounds_of(case: Case, given: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """What each library takes, round by round."""
    measures = [each for each in case.measures if each in (given.measures or case.measures)]
    todo = [
        (library, measure)
        for measure in measures
        for library in case.libraries
        if library in given.only
    ]
    if "step" in measures and given.device == "cpu":
        todo.append(("floor", "step"))
    rates: dict[tuple[str, str], float] = {}
    for round_ in range(min(given.rounds, case.most_rounds)):
        results = []
        for library, measure in list(todo):
            started = time.perf_counter()
            result = one(case, library, measure, given)
            took = time.perf_counter() - started
            result |= {"round": round_, "process_s": round(took, 1)}
            shown = result.get("error") or f"{result['samples_per_s']:,.0f} samples/s"
            print(f"{case.name}, {measure}, {library}: {shown} ({took:.0f} s)", flush=True)
            rates[library, measure] = result.get("samples_per_s", 0.0)
            measuring = result.get("seconds", 0) + result.get("startup_s", 0)
            if measuring > SLOW_S or "error" in result:
                todo.remove((library, measure))
            results.append(result)
        yield results
        if round_ == 0:
            todo = worth_repeating(todo, rates)


def worth_repeating(
    todo: list[tuple[str, str]], rates: dict[tuple[str, str], float]
) -> list[tuple[str, str]]:
    """finerank, the floor, and of each measure the fastest other libraries."""
    kept = []
    for measure in {measure for _, measure in todo}:
        others = [each for each in todo if each[1] == measure and each[0] in PEERS]
        kept += sorted(others, key=lambda each: -rates[each])[:REPEATED]
    return [each for each in todo if each[0] in (*OURS, "floor") or each in kept]


def one(case: Case, library: str, measure: str, given: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a process of its own; an ``error`` where it fails."""
    command = [sys.executable, str(HERE / "one.py"), case.name, library, measure]
    for name in ("work", "seconds", "scale", "threads", "device"):
        command += [f"--{name}", str(getattr(given, name))]
    threads = {f"{name}_NUM_THREADS": str(given.threads) for name in ("OMP", "MKL", "OPENBLAS")}
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **threads},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        error = f"not done after {LIMIT_S} s"
    else:
        lines = done.stdout.strip().splitlines()
        if done.returncode == 0 and lines:
            return json.loads(lines[-1])
        errors = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        error = errors[-1][:300]
    return {"case": case.name, "library": library, "measure": measure, "error": error}


if __name__ == "__main__":
    main()
