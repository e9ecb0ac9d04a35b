"""Time, memory and versions of one measurement, the same for every library."""

from __future__ import annotations

import itertools
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

PACKAGES = {
    "finerank": "finerank",
    "default": "finerank",
    "fuxictr": "fuxictr",
    "rechub": "torch-rechub",
    "deepctr": "deepctr-torch",
    "nextrec": "nextrec",
    "floor": "torch",
}
ENDLESS = 1_000_000  # steps: more than any measurement takes
READY_BATCHES = 20


class Enough(Exception):  # noqa: N818
    """Raised inside a training loop when it has been measured for long enough."""


class Clock:
    """Counts the samples of a training loop that is not ours, and ends it when there are enough.

    The loop calls `tick` after each step: the peers from a hook of their optimiser, finerank from
    its progress. The first steps warm up and don't count. The loop ends after ``seconds``, but not
    before ``least`` counted steps: a step that takes seconds is still measured.

    Args:
        seconds: of measuring; a fifth of it is the warm-up before.
        least: steps that count, at least.
        wait: returns when a device has done all that it was told; called where counting begins and
            ends, not between.
    """

    def __init__(
        self, seconds: float, *, least: int = 3, wait: Callable[[], None] | None = None
    ) -> None:
        self.seconds, self.least, self.wait = seconds, least, wait
        self.created = time.perf_counter()
        self.last: int | None = None  # a step that ends the loop in any case
        self.ticks: list[tuple[float, int]] = []  # when a step ended, and its samples
        self.first_counted: int | None = None

    def tick(self, samples: int) -> None:
        """A step of so many samples is done.

        Raises:
            Enough: the measurement is long enough.
        """
        now = time.perf_counter()
        self.ticks.append((now, samples))
        if len(self.ticks) == self.last:
            self._settle()
            raise Enough
        if self.first_counted is None:
            warm = now - self.ticks[0][0] >= self.seconds / 5 and len(self.ticks) >= 3
            if warm:
                self._settle()
                self.first_counted = len(self.ticks)
            return
        counted = len(self.ticks) - self.first_counted
        if now - self.ticks[self.first_counted - 1][0] >= self.seconds and counted >= self.least:
            self._settle()
            raise Enough

    def _settle(self) -> None:
        """The last step ends when the device has done it."""
        if self.wait is not None:
            self.wait()
            self.ticks[-1] = time.perf_counter(), self.ticks[-1][1]

    def result(self) -> dict[str, float]:
        """Samples, seconds and steps that count, and seconds before the first step was done.

        An epoch that ended in the warm-up counts from its second step on.
        """
        first = self.first_counted
        if first is None or first >= len(self.ticks):
            first = 1
        counted = self.ticks[first:]
        if not counted:
            raise RuntimeError(f"expected two steps or more, found {len(self.ticks)}")
        seconds = counted[-1][0] - self.ticks[first - 1][0]
        samples = sum(samples for _, samples in counted)
        return {
            "samples": samples,
            "seconds": seconds,
            "steps": len(counted),
            "samples_per_s": samples / seconds,
            "startup_s": self.ticks[0][0] - self.created,
        }


class Ready(Dataset[Any]):
    """Batches that are made already, again and again, for measuring the model's step alone."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401
        return self.batches[index % len(self.batches)]

    @classmethod
    def loader(cls, batches: Sequence[Any]) -> DataLoader[Any]:
        """As a DataLoader that hands the batches on as they are."""
        return DataLoader(cls(batches), batch_size=None)


def first(loader: Iterable[Any]) -> list[Any]:
    """The first batches of a loader; the last, smaller one is left out where there are others."""
    batches = list(itertools.islice(loader, READY_BATCHES + 1))
    return batches[:-1] or batches


def memory_mb(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (the most so far) of this process, in MiB; Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def versions(library: str) -> dict[str, str]:
    """Of the library, and of what all of them stand on."""
    found = {"python": platform.python_version()}
    for name in (PACKAGES[library], "torch", "numpy", "pandas", "polars"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
