"""Memory, time and disk of preparation as the log grows, beside pandas and other libraries.

python benchmarks/memory/run.py [--millions 1 10 50] [--only finerank pandas fuxictr rechub]

The simulator's log, 500 impressions a user, the last 50 clicked items and their categories as the
history. Each measurement is a process of its own with two threads:

- finerank: `finerank.prepare` with `memory="2GB"`; and `finerank.train` of a small DNN over it for
  half a minute.
- pandas: read, join the items, encode with what the training period has, a window of each user's
  clicks for each row; the padded histories as an array, as a model in memory would read them.
- fuxictr, rechub: the same join in pandas, then the library's own preparation (needs the
  environment of `make benchmark`). They encode over the whole log and split nothing.

Whoever needs more than 16 GiB is ended, other libraries also after 300 s; what ended at one size
is not tried at the next. `anonymous` is what the process has for itself, `resident`
also counts the pages of memory-mapped files, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
MEMORY = "2GB"
LENGTH = 50
LIMIT_S, OTHERS_LIMIT_S = 1500, 300
LIMIT_MB = 16 * 1024
TRAIN_S = 30
RECIPE = {
    "log": {"user": "user_id", "item": "item_id", "time": "timestamp_s"},
    "users": {"key": "user_id"},
    "items": {"key": "item_id"},
    "features": {
        "user_id": {"side": "user", "type": "id"},
        "country": {"side": "user", "type": "id"},
        "age": {"side": "user", "type": "number"},
        "item_id": {"side": "item", "type": "id"},
        "category": {"side": "item", "type": "id"},
    },
    "histories": {
        "clicked": {
            "features": ["item_id", "category"],
            "where": "click = 1",
            "max_length": LENGTH,
        }
    },
    "tasks": {"click": "click = 1"},
    "split": {"by": "time", "valid": 0.1, "test": 0.1},
    "model": {"name": "dnn", "embedding_dim": 8, "hidden_units": [32]},
    "training": {"epochs": 1, "batch_size": 8192},
}


def main() -> None:
    """Run what the command line names, or one measurement of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 10, 50])
    names = ("finerank", "pandas", "fuxictr", "rechub")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--work", type=Path, default=Path("runs/memory"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, folder = given.one
        print(json.dumps(_measured(name, Path(folder))))
        return
    file = given.work / "results.json"
    kept = json.loads(file.read_text()) if file.exists() else []
    failed = set()
    for millions in given.millions:
        raw = given.work / f"{millions}M"
        if not raw.exists():
            _call("simulate", raw)
        log_mb = (raw / "log.parquet").stat().st_size / 2**20
        for name in given.only:
            if name in failed:
                continue
            for job in ("finerank", "train") if name == "finerank" else (name,):
                found = {"job": job, "millions": millions, "log_mb": log_mb, **_call(job, raw)}
                print(_line(found), flush=True)
                kept = [e for e in kept if (e["job"], e["millions"]) != (job, millions)]
                kept.append(found)
                if "error" in found:
                    failed.add(name)
                file.write_text(json.dumps(kept))
    (HERE / "RESULTS.md").write_text(_page(kept))


def _call(job: str, raw: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--one", job, str(raw)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {LIMIT_S} s"}
    if done.returncode:
        error = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {"error": error[:200]}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _measured(job: str, raw: Path) -> dict[str, Any]:
    with _Watch() as watch:
        started = time.perf_counter()
        rows, bytes_ = JOBS[job](raw)
        seconds = time.perf_counter() - started
    return {
        "rows": rows,
        "bytes": bytes_,
        "seconds": seconds,
        "anonymous_mb": watch.most,
        "resident_mb": _status("VmHWM"),
    }


class _Watch:
    """The most anonymous memory of this process, looked at twenty times a second, in MiB."""

    def __enter__(self) -> _Watch:
        self.most, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, _status("RssAnon"))
            if self.most > LIMIT_MB:
                print("more than 16 GiB", file=sys.stderr, flush=True)
                os._exit(1)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def _simulate(raw: Path) -> tuple[int, int]:
    from finerank.data.simulator import simulate, write  # noqa: PLC0415

    millions = int(raw.name.removesuffix("M"))
    made = simulate(
        users=2_000 * millions,
        requests_per_user=50,
        candidates_per_request=10,
        items=100_000,
        categories=1_000,
        memory=LENGTH,
        seed=0,
    )
    write(made, raw)
    return made.log.num_rows, 0


def _recipe(raw: Path) -> Any:  # noqa: ANN401
    from finerank.recipe import Recipe  # noqa: PLC0415

    tables = {
        part: {**RECIPE[part], "path": str((raw / f"{part}.parquet").resolve())}
        for part in ("log", "users", "items")
    }
    return Recipe.parse({**RECIPE, **tables})


def _finerank(raw: Path) -> tuple[int, int]:
    import finerank  # noqa: PLC0415

    folder = raw / "prepared"
    done = finerank.prepare(_recipe(raw), folder, memory=MEMORY)
    return sum(done.manifest["report"]["rows"].values()), _bytes(folder)


class _EnoughError(Exception):
    """Half a minute is over."""


def _train(raw: Path) -> tuple[int, int]:
    import finerank  # noqa: PLC0415

    seen, started = 0, time.perf_counter()

    @contextlib.contextmanager
    def told(step: str, total: int | None) -> Iterator[Callable[..., None]]:  # noqa: ARG001
        def advance(amount: int = 1, remark: str = "") -> None:  # noqa: ARG001
            nonlocal seen
            if step.startswith("epoch"):
                seen += amount
                if time.perf_counter() - started > TRAIN_S:
                    raise _EnoughError

        yield advance

    with contextlib.suppress(_EnoughError), tempfile.TemporaryDirectory() as folder:
        finerank.train(raw / "prepared", Path(folder) / "run", progress=told)
    return seen, 0


def _pandas(raw: Path) -> tuple[int, int]:
    log = pd.read_parquet(raw / "log.parquet")
    log = log.merge(pd.read_parquet(raw / "items.parquet"), on="item_id", how="left")
    log = log.merge(pd.read_parquet(raw / "users.parquet"), on="user_id", how="left")
    ordered = log["timestamp_s"].sort_values()
    valid_from = ordered.iloc[int(len(log) * 0.8)]
    train = log["timestamp_s"] < valid_from
    for column in ("user_id", "item_id", "category", "country"):
        known = log.loc[train, column].value_counts().index
        log[column] = pd.Categorical(log[column], categories=known).codes + 1
    log["age"] = (log["age"] - log.loc[train, "age"].mean()) / log.loc[train, "age"].std(ddof=0)
    log = log.sort_values(["user_id", "timestamp_s"], kind="stable")
    clicks = log[log["click"] == 1]
    span = int(log["timestamp_s"].max()) + 1
    users, times = log["user_id"].to_numpy(np.int64), log["timestamp_s"].to_numpy()
    moments = clicks["user_id"].to_numpy(np.int64) * span + clicks["timestamp_s"].to_numpy()
    end = np.searchsorted(moments, users * span + times)
    start = np.maximum(np.searchsorted(moments, users * span), end - LENGTH)
    places = start[:, None] + np.arange(LENGTH)
    outside = places >= end[:, None]
    places[outside] = 0
    folder = raw / "pandas"
    folder.mkdir(exist_ok=True)
    for column in ("item_id", "category"):
        history = clicks[column].to_numpy(np.int32)[places]
        history[outside] = 0
        np.save(folder / f"{column}.npy", history)
    log.to_parquet(folder / "rows.parquet")
    return len(log), _bytes(folder)


def _peer(library: str) -> Callable[[Path], tuple[int, int]]:
    def job(raw: Path) -> tuple[int, int]:
        sys.path.insert(0, str(HERE.parent / "speed"))
        cases, side = import_module("cases"), import_module(f"{library}_side").Side
        own = side.__new__(side)  # its preparation alone, over another log
        own.case = replace(cases.ALL["preparation"], max_length=LENGTH)
        with tempfile.TemporaryDirectory() as folder:
            own.raw = Path(folder)
            _as_suite(raw, own.raw)
            rows, _ = own.prepare()
        return rows, 0

    return job


def _as_suite(raw: Path, folder: Path) -> None:
    """The log as the speed suite's libraries read it: clicks are past events too."""
    log = pq.read_table(raw / "log.parquet").rename_columns(["user", "item", "time", "click"])
    clicks = log.filter(pa.compute.equal(log["click"], 1))
    shown = [t.append_column("shown", pa.array(np.full(len(t), s, np.int8)))
             for t, s in ((log, 1), (clicks, 0))]  # fmt: skip
    pq.write_table(pa.concat_tables(shown), folder / "log.parquet")
    items = pq.read_table(raw / "items.parquet").rename_columns(["item", "category"])
    pq.write_table(items, folder / "items.parquet")


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


JOBS: dict[str, Callable[[Path], tuple[int, int]]] = {
    "simulate": _simulate,
    "finerank": _finerank,
    "train": _train,
    "pandas": _pandas,
    "fuxictr": _peer("fuxictr"),
    "rechub": _peer("rechub"),
}
LABELS = {"finerank": "finerank, prepare", "train": "finerank, train", "rechub": "torch-rechub"}


def _line(found: dict[str, Any]) -> str:
    job, millions, log_mb = found["job"], found["millions"], found["log_mb"]
    label = LABELS.get(job, {"fuxictr": "FuxiCTR"}.get(job, job))
    head = f"| {millions} M | {log_mb:,.0f} | {label} |"
    if "error" in found:
        return f"{head} {found['error']} | | | | |"
    speed = found["rows"] / found["seconds"]
    disk = f"{found['bytes'] / 2**20:,.0f}" if found["bytes"] else ""
    return (
        f"{head} {found['seconds']:,.1f} | {speed:,.0f} | {found['anonymous_mb']:,.0f} | "
        f"{found['resident_mb']:,.0f} | {disk} |"
    )


def _page(kept: list[dict[str, Any]]) -> str:
    import finerank  # noqa: PLC0415

    return "\n".join(
        [
            "# Memory as the log grows",
            "",
            __doc__.split("\n\n", 2)[2].strip(),
            "",
            "```\npython benchmarks/memory/run.py\n```",
            "",
            "| events | log | what | s | rows/s | anonymous | resident | disk (all MiB) |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *map(_line, sorted(kept, key=lambda each: each["millions"])),
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, finerank {finerank.__version__}, Python "
            f"{platform.python_version()}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
