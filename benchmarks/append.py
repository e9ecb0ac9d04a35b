"""How long it takes to append a day to a prepared data set, beside preparing all days anew.

python benchmarks/append.py [--rows 1000000] [--days 30] [--rounds 3]

A simulated log in order of time, cut into days of equally many rows. All days but the last are
prepared; then in turn: all days are prepared in one go, and the last is appended.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from importlib.resources import files
from pathlib import Path

import pyarrow.parquet as pq

from finerank.data.append import append
from finerank.data.prepare import prepare
from finerank.data.simulator import simulate, write
from finerank.recipe import Recipe

_REQUESTS = 100  # of each user


def main() -> None:
    """Time both, alternating, and print medians in seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--negatives", type=int, default=0, help="sampled for each positive")
    parser.add_argument("--work", type=Path, default=Path("runs/append"))
    arguments = parser.parse_args()
    raw, work = arguments.work / "raw", arguments.work
    shutil.rmtree(work, ignore_errors=True)
    simulation = simulate(
        users=arguments.rows // _REQUESTS, requests_per_user=_REQUESTS, items=20_000, seed=0
    )
    write(simulation, raw)
    log = pq.read_table(raw / "log.parquet").sort_by("timestamp_s")
    cut = log.num_rows - log.num_rows // arguments.days
    times = log["timestamp_s"]
    while times[cut] == times[cut - 1]:
        cut += 1
    pq.write_table(log.slice(0, cut), raw / "before.parquet")
    pq.write_table(log.slice(cut), raw / "day.parquet")
    recipes = {name: _recipe(raw, name, arguments.negatives) for name in ("log", "before")}
    prepare(recipes["before"], work / "before")
    seconds: dict[str, list[float]] = {"prepare_all_s": [], "append_day_s": []}
    for _ in range(arguments.rounds):
        for folder in ("all", "new"):
            shutil.rmtree(work / folder, ignore_errors=True)
        begun = time.perf_counter()
        prepare(recipes["log"], work / "all")
        between = time.perf_counter()
        append(work / "before", log=raw / "day.parquet", out=work / "new")
        seconds["append_day_s"].append(time.perf_counter() - between)
        seconds["prepare_all_s"].append(between - begun)
    medians = {name: round(statistics.median(each), 2) for name, each in seconds.items()}
    print(json.dumps({"rows": cut, "new": log.num_rows - cut, **medians}))


def _recipe(raw: Path, log: str, negatives: int) -> Recipe:
    text = (files("finerank") / "recipes" / "simulated.yaml").read_text()
    settings = [f"{home}.path={raw / home}.parquet" for home in ("users", "items")]
    settings.append(f"log.path={raw / log}.parquet")
    if negatives:
        settings.append(f"negatives={json.dumps({'per_positive': negatives})}")
    path = raw / f"{log}.yaml"
    path.write_text(text)
    return Recipe.load(path).override([s.replace(str(raw), str(raw.resolve())) for s in settings])


if __name__ == "__main__":
    main()
