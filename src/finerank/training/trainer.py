"""The training loop: epochs, validation, early stopping, the best weights.

Shapes: ``B`` candidates, ``T`` tasks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from finerank.data.loader import Loader
from finerank.data.placement import Copied, Placement
from finerank.errors import FinerankError
from finerank.evaluation.evaluator import BATCH_SIZE, Metrics, metrics_of, score
from finerank.nn.allocator import keep_freed_memory, map_large_blocks
from finerank.progress import Progress, silent
from finerank.training import replay as replaying
from finerank.training.compiling import Compiler
from finerank.training.device import find_device, find_precision
from finerank.training.id_dropout import IdDropout
from finerank.training.loss import UncertaintyWeights, WeightedSum, task_losses
from finerank.training.optimizers import Optimizers
from finerank.training.regularization import MiniBatchL2
from finerank.training.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from finerank.data.batch import Batch
    from finerank.data.examples import Examples
    from finerank.data.placement import PlacedSet
    from finerank.settings import TrainingSettings

_TELL_S = 0.5  # between two readings of the loss for the progress
_VALIDATED_ON_CPU = 1024  # candidates at a time: optimisers and training's batches share its memory


@dataclass
class Fit:
    """What training did.

    Attributes:
        epochs: one record an epoch: its losses in nats, validation metrics, learning rate, each
            task's weight at its end, and seconds.
        best_epoch: the epoch whose weights the model has, from 1.
        valid: that epoch's metrics on the validation set.
        seconds: of training and validation.
        samples_per_s: candidates trained on a second, validation not counted.
        precision: of the matrix products, ``float32`` or ``bfloat16``.
        resident: whether the training set lay on the device, or its batches were copied there.
        compiled: whether the model was trained by compiled code.
        replayed: whether a device replayed steps that it had been told once.
        warnings: what a setting asked for and didn't get, in words.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    valid: Metrics = field(default_factory=dict)
    seconds: float = 0.0
    samples_per_s: float = 0.0
    precision: str = ""
    resident: bool = True
    compiled: bool = False
    replayed: bool = False
    warnings: list[str] = field(default_factory=list)


class Trainer:
    """Trains a model until the validation metric stops improving.

    Args:
        settings: epochs, batch size, learning rate, what to watch.
        task_weights: task -> weight of its loss in the sum.
        progress: told of each epoch.

    Raises:
        FinerankError: the settings name a device that isn't there.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        *,
        task_weights: Mapping[str, float],
        progress: Progress = silent,
    ) -> None:
        self.settings, self.progress = settings, progress
        self.tasks = list(task_weights)
        weighting = UncertaintyWeights if settings.task_weights == "uncertainty" else WeightedSum
        self.device = find_device(settings.device)
        self.precision = find_precision(settings.precision, self.device)
        self.weighting = weighting(list(task_weights.values())).to(self.device)

    def fit(self, model: nn.Module, train: PlacedSet, valid: Examples) -> Fit:
        """Train a model; it is left with the weights of its best epoch, on the trainer's device.

        Raises:
            FinerankError: the loss is no longer finite, or the validation set can't be judged by
                the metric, having one class only.
        """
        settings, fit, trained_s = self.settings, Fit(), 0.0
        map_large_blocks()
        model.to(self.device)
        compiler = Compiler(model, wanted=settings.compile)
        optimizers = Optimizers(model, self.weighting, settings)
        l2 = None
        if settings.embedding_l2 > 0:
            l2 = MiniBatchL2(model, train, strength=settings.embedding_l2)
        placement = Placement(self.device)
        train_set, valid_set = placement.place(train), placement.place(valid)
        fit.precision = str(self.precision).removeprefix("torch.")
        fit.resident = not isinstance(train_set, Copied)
        tell: Callable[[Batch], Tensor] = partial(self._step, model, optimizers, l2)
        loader, step, replay = self._steps(train_set, tell, optimizers)
        at_a_time = _VALIDATED_ON_CPU if self.device.type == "cpu" else BATCH_SIZE
        best_value, best_weights = float("-inf"), {}
        started = time.perf_counter()
        for epoch in range(1, settings.epochs + 1):
            epoch_started = time.perf_counter()
            with optimizers.sparse_tables(), compiler.in_use():
                model.train()
                losses = self._epoch(step, loader, f"epoch {epoch} of {settings.epochs}")
            trained_s += time.perf_counter() - epoch_started
            if not all(map(_is_finite, model.state_dict().values())):
                raise _not_finite(f"epoch {epoch}", "weights that are not")
            logits = score(model, valid_set, batch_size=at_a_time)
            metrics = metrics_of(logits, valid)
            value = self._watched(metrics)
            fit.epochs.append(
                {
                    "epoch": epoch,
                    "train_loss_nats": losses,
                    "valid": metrics,
                    "learning_rate": optimizers.learning_rate,
                    "task_weights": dict(zip(self.tasks, self.weighting.learned(), strict=True)),
                    "seconds": round(time.perf_counter() - epoch_started, 3),
                }
            )
            if value > best_value:
                best_value, fit.best_epoch, fit.valid = value, epoch, metrics
                if epoch < settings.epochs:  # the last ones need no copy
                    best_weights = {
                        k: v.to("cpu", copy=True) for k, v in model.state_dict().items()
                    }
            elif epoch - fit.best_epoch >= settings.patience:
                break
            else:
                optimizers.slow_down(settings.plateau_factor)
        if fit.best_epoch < len(fit.epochs):
            model.load_state_dict(best_weights)
        fit.compiled = compiler.compiles
        fit.replayed = replay is not None and replay.replayed > 0
        told = [compiler.warning, "" if replay is None else replay.warning]
        fit.warnings = [each for each in told if each]
        fit.seconds = time.perf_counter() - started
        fit.samples_per_s = train.num_candidates * len(fit.epochs) / trained_s
        return fit

    def _steps(
        self, train: PlacedSet, tell: Callable[[Batch], Tensor], optimizers: Optimizers
    ) -> tuple[Loader[Any], Callable[[Any], Tensor], Replay | None]:
        """A loader, what learns from each of its batches, and whether by replaying a step."""
        settings, drop = self.settings, None
        if settings.id_dropout > 0:
            drop = IdDropout(
                train.schema, settings.id_dropout, seed=settings.seed, device=self.device
            )
        loader = partial(Loader, batch_size=settings.batch_size, shuffle=True, seed=settings.seed)
        if not replaying.is_possible(train):
            return loader(train, then=drop), tell, None
        replay = Replay(train, tell, optimizers, drop)
        return loader(replay.unmade), replay.step, replay

    def _epoch(
        self, step: Callable[[Any], Tensor], loader: Loader[Any], name: str
    ) -> dict[str, float]:
        """One pass over the training set; the mean loss of each task."""
        total, batches = torch.zeros(len(self.tasks), device=self.device), 0
        remark, told = "", -_TELL_S
        with self.progress(name, loader.examples.num_candidates) as advance:
            for batch in loader:
                total += step(batch)
                batches += 1
                if batches == 1:  # what stays is made by now
                    keep_freed_memory()
                if (now := time.monotonic()) - told >= _TELL_S:  # a device is waited for
                    remark, told = self._remark(total, batches), now
                advance(batch.num_candidates, remark)
        if not total.isfinite().all():
            raise _not_finite(name, f"{total.tolist()}")
        return {
            task: round(loss / batches, 6)
            for task, loss in zip(self.tasks, total.tolist(), strict=True)
        }

    def _step(
        self, model: nn.Module, optimizers: Optimizers, l2: MiniBatchL2 | None, batch: Batch
    ) -> Tensor:
        """Learn from one batch, without waiting for a device; the loss of each task ``(T,)``."""
        assert batch.labels is not None
        optimizers.zero_grad()  # before the forward, which takes their memory
        short = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision, enabled=short):
            logits = model(batch)
        losses = task_losses(logits.to(batch.labels.dtype), batch.labels)  # (T,)
        self.weighting(losses).backward()
        if l2 is not None:
            l2.add_gradient()
        optimizers.step()
        return losses.detach()

    def _remark(self, total: Tensor, batches: int) -> str:
        """The mean loss of each task so far, in nats."""
        losses = zip(self.tasks, total.tolist(), strict=True)
        return "loss " + ", ".join(f"{task} {loss / batches:.4f}" for task, loss in losses)

    def _watched(self, metrics: Metrics) -> float:
        """The watched metric, averaged over the tasks; greater is better."""
        name = self.settings.metric
        values = [metrics[task][name] for task in self.tasks]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            raise FinerankError(
                f"training.metric: {name}",
                expected="both classes in the validation set"
                + (", for at least one user" if name == "gauc" else ""),
                found="one class, or no users",
                fix="Change the split or the label, or watch log_loss_nats.",
            )
        mean = sum(known) / len(known)
        return -mean if name == "log_loss_nats" else mean


def _is_finite(weights: Tensor) -> bool:
    """Whether all are; found without a copy, for tables may be large."""
    if weights.numel() == 0:
        return True
    return all(bool(bound.isfinite()) for bound in weights.aminmax())


def _not_finite(where: str, found: str) -> FinerankError:
    return FinerankError(
        where, expected="a finite loss", found=found, fix="Lower training.learning_rate."
    )
