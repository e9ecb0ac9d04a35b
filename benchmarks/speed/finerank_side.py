"""finerank as its user calls it: a recipe, `finerank.prepare`, `finerank.train`."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from cases import ATTENTION_UNITS, CROSS_LAYERS, EXPERT_UNITS, EXPERTS, TOWER_UNITS
from measure import first
from synthetic import TEST_AT, VALID_AT, make

import finerank
from finerank.data.loader import Loader
from finerank.data.placement import Placement, Resident
from finerank.evaluation.evaluator import evaluate
from finerank.evaluation.metrics import binary_metrics
from finerank.models.registry import build
from finerank.recipe import Recipe
from finerank.training.replay import is_possible
from finerank.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cases import Case
    from measure import Clock
    from torch import Tensor

    from finerank.data.batch import Batch
    from finerank.data.examples import Sizes
    from finerank.data.placement import PlacedSet

ENDLESS = 4_000_000  # requests
ENDLESS_EPOCHS = 100_000


class Side:
    """finerank's side of a case."""

    training: ClassVar[dict[str, str]] = {  # float32 as everybody's; rows not in use rest
        "precision": "float32",
        "embedding_optimizer": "lazy_adam",
    }

    def __init__(self, case: Case, work: Path, device: str) -> None:
        self.case, self.device = case, torch.device(device)
        self.raw = make(case, work)
        self.recipe = Recipe.parse(recipe_of(case, self.raw))
        self.folder = work / "prepared" / f"{case.name}-{case.rows}"
        if case.kind != "prepare":
            self.dataset = finerank.Dataset(finerank.prepare(self.recipe, self.folder).folder)

    def train(self, measure: str, clock: Clock) -> None:
        """Run the library's own training until the clock ends it."""
        where = {"device": str(self.device), **self.training}
        if self.device.type != "cpu":  # where an epoch is over before it is measured
            where |= {"epochs": ENDLESS_EPOCHS, "patience": ENDLESS_EPOCHS}
        if measure == "step":
            settings = self.recipe.training.model_copy(update=where)
            weights = {name: task.weight for name, task in self.recipe.tasks.items()}
            trainer = Trainer(settings, task_weights=weights, progress=_Told(clock))
            trainer.fit(self._model(), self._ready(), self.dataset.split("valid"))
        else:
            with tempfile.TemporaryDirectory() as folder:
                finerank.train(
                    self.folder,
                    Path(folder) / "run",
                    overrides=[f"training.{name}={value}" for name, value in where.items()],
                    progress=_Told(clock),
                )

    def evaluate(self, measure: str) -> tuple[int, float]:
        """Rows, and seconds of scoring and judging them, or of judging alone."""
        test = self.dataset.split("test")
        if measure == "metrics":
            assert test.labels is not None
            labels, users = test.labels[0].numpy(), test.user.numpy()
            scores = np.random.default_rng(0).random(len(labels))
            return _timed(len(labels), lambda: binary_metrics(labels, scores, users))
        model = self._model()
        return _timed(test.num_candidates, lambda: evaluate(model, test))

    def prepare(self) -> tuple[int, float]:
        """Examples, and seconds from the raw files to the prepared data set."""
        for each in ("ibis.backends.duckdb", "finerank.data.preparation"):
            import_module(each)  # what is imported counts for no library
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            done = finerank.prepare(self.recipe, Path(folder) / "prepared")
            return sum(done.manifest["report"]["rows"].values()), time.perf_counter() - started

    def _model(self) -> Any:  # noqa: ANN401
        torch.manual_seed(0)
        return build(self.dataset.schema, self.recipe.model).to(self.device)

    def _ready(self) -> PlacedSet:
        """Batches that are made; a device makes each in the step itself, from its requests."""
        train = Placement(self.device).place(self.dataset.split("train"))
        if is_possible(train):
            return Endless(train)
        loader = Loader(train, batch_size=self.case.batch_size, shuffle=True)
        return ReadyBatches(train, first(loader))


class ReadyBatches(Resident):
    """Examples whose batches are made already: whichever are asked for, the next one comes.

    As many requests as no measurement uses up, with as many candidates as the real ones.
    """

    def __init__(self, examples: PlacedSet, batches: list[Batch]) -> None:
        candidates = examples.num_candidates // examples.num_requests
        self.schema, self.device = examples.schema, torch.device("cpu")
        self.first_candidate = torch.arange(0, (ENDLESS + 1) * candidates, candidates)
        self._next = itertools.cycle(batches)

    def by_steps(self, requests: torch.Tensor) -> torch.Tensor:
        """The given requests."""
        return requests

    def batch(self, requests: torch.Tensor) -> Batch:  # noqa: ARG002
        """The next of the batches."""
        return next(self._next)


class Endless(Resident):
    """Examples on a device, that come again and again: as many requests as nothing uses up."""

    def __init__(self, examples: Resident) -> None:
        vars(self).update(vars(examples))
        candidates, self._count = examples.num_candidates, examples.num_requests
        candidates //= self._count
        self.first_candidate = torch.arange(0, (ENDLESS + 1) * candidates, candidates)
        self.by_steps = lambda requests: requests

    def sizes(self, requests: torch.Tensor) -> dict[tuple[str, ...], int]:
        """What the batch of the given requests has."""
        return super().sizes(requests % self._count)

    def made(self, requests: torch.Tensor, sizes: Sizes, count: Tensor | None = None) -> Batch:
        """The batch of the given requests."""
        return super().made(requests % self._count, sizes, count)


class _Told:
    """A progress that tells the clock of every training step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    @contextlib.contextmanager
    def __call__(self, step: str, total: int | None) -> Iterator[Callable[..., None]]:  # noqa: ARG002
        def advance(amount: int = 1, remark: str = "") -> None:  # noqa: ARG001
            if step.startswith("epoch"):
                self.clock.tick(amount)

        yield advance


def _timed(rows: int, work: Callable[[], object]) -> tuple[int, float]:
    started = time.perf_counter()
    work()
    return rows, time.perf_counter() - started


def recipe_of(case: Case, raw: Path) -> dict[str, Any]:
    """The recipe of a case."""
    training = {
        "epochs": 1,
        "batch_size": case.batch_size,
        "learning_rate": 1e-3,
    }
    tasks = {task: f"{task} = 1" for task in case.tasks}
    common = {"tasks": tasks, "model": _model_options(case), "training": training}
    if case.history is not None:
        return {
            "log": {
                "path": str(raw / "log.parquet"),
                "user": "user",
                "item": "item",
                "time": "time",
                "examples": "shown = 1",
            },
            "items": {"path": str(raw / "items.parquet"), "key": "item"},
            "features": {
                "user": {"side": "user", "type": "id"},
                "item": {"side": "item", "type": "id"},
                "category": {"side": "item", "type": "id"},
            },
            "histories": {
                "past": {
                    "features": ["item", "category"],
                    "where": "shown = 0",
                    "max_length": case.max_length,
                }
            },
            "split": {"by": "time", "valid_from": VALID_AT, "test_from": TEST_AT},
            **common,
        }
    # buckets: as many ids as every other library gets, whether or not a row has them
    ids = {
        f"c{index}": {"side": "context", "type": "id", "buckets": size - 1}
        for index, size in enumerate(case.id_sizes)
    }
    numbers = {f"n{index}": {"side": "context", "type": "number"} for index in range(case.numbers)}
    log = {"path": str(raw / "log.parquet"), "time": "row"}
    if case.user_column:
        log["user"] = "c0"
    return {
        "log": log,
        "features": {**ids, **numbers},
        "split": _split(case),
        **common,
    }


def _split(case: Case) -> dict[str, Any]:
    """Almost all rows train, or are judged: what isn't measured isn't waited for."""
    few = min(0.05, 500 / case.rows)
    return {"by": "time", "valid": few, "test": 1 - 2 * few if case.user_column else few}


def _model_options(case: Case) -> dict[str, Any]:
    common = {"embedding_dim": case.embedding_dim}
    if case.kind == "mmoe":
        experts = {"num_experts": EXPERTS, "expert_units": list(EXPERT_UNITS)}
        return {"name": "mmoe", **common, **experts, "tower_units": list(TOWER_UNITS)}
    common |= {"hidden_units": list(case.hidden_units)}
    if case.history is not None:
        attention = {"attention_hidden_units": list(ATTENTION_UNITS), "activation": "relu"}
        return {"name": "din", **common, **attention}
    if case.kind == "dcn":
        return {"name": "dcn", **common, "num_cross_layers": CROSS_LAYERS}
    return {"name": "dnn", **common}
