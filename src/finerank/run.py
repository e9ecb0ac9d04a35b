"""A run: prepare where needed, train, evaluate, and one folder with all that came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finerank.bundle import check_fits, find_bundle, load_bundle, save_bundle
from finerank.data.dataset import Dataset
from finerank.data.manifest import MANIFEST as DATASET_MANIFEST
from finerank.data.manifest import data_part
from finerank.data.prepare import prepare
from finerank.errors import FinerankError
from finerank.evaluation.evaluator import Metrics, evaluate
from finerank.evaluation.gates import gate_report
from finerank.folders import written_whole
from finerank.models.registry import build, check_options, options_of
from finerank.progress import Progress, silent
from finerank.recipe import Recipe
from finerank.settings import ModelSettings
from finerank.training.device import device_name, find_device
from finerank.training.memory import peak_memory_mb, reset_peak
from finerank.training.trainer import Trainer
from finerank.training.warm_start import check_grown, start_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.settings import SplitName

METRICS = "metrics.json"


@dataclass(frozen=True)
class Run:
    """What `train` wrote.

    Attributes:
        folder: holds ``bundle/``, ``metrics.json``, ``recipe.yaml`` and ``log.jsonl``.
        metrics: the content of ``metrics.json``.
    """

    folder: Path
    metrics: dict[str, Any]


def prepared_folder(recipe: Recipe, recipe_path: Path) -> Path:
    """Where `train` keeps the data set that it prepares for a recipe."""
    return recipe_path.parent / ".finerank" / recipe.name


def open_source(
    source: str | Path | Recipe, *, overrides: Sequence[str] = (), progress: Progress = silent
) -> tuple[Recipe, Dataset]:
    """The recipe and data set behind a recipe's file, a prepared data set's folder, or a recipe.

    A recipe is prepared first, unless that is done already.

    Args:
        source: what to train on.
        overrides: settings of the recipe to replace, each ``key.key=value``.
        progress: told of each step of preparation.

    Raises:
        FinerankError: from the recipe or from preparing.
    """
    if isinstance(source, Recipe):
        recipe, place = source.override(overrides), Path.cwd() / "recipe"
    elif (Path(source) / DATASET_MANIFEST).is_file():
        dataset = Dataset(source)
        recipe = dataset.recipe.override(overrides)
        if data_part(recipe) != data_part(dataset.recipe):
            raise FinerankError(
                f"--set {' '.join(overrides)}",
                expected="settings under model, training or tasks.*.weight for a prepared data set",
                found="one that decides how data is prepared",
                fix="Prepare the recipe with it, or train from the recipe.",
            )
        return recipe, dataset
    else:
        recipe, place = Recipe.load(source).override(overrides), Path(source)
    check_options(recipe.model)
    done = prepare(recipe, prepared_folder(recipe, place), progress=progress)
    return recipe, Dataset(done.folder)


def train(
    source: str | Path | Recipe,
    out: str | Path,
    *,
    model: str | None = None,
    overrides: Sequence[str] = (),
    start: str | Path | None = None,
    only_new: bool = False,
    progress: Progress = silent,
) -> Run:
    """Train a model and write a run's folder, whole or not at all.

    Args:
        source: a recipe, its file, or a prepared data set's folder.
        out: the run's folder; replaced at the end if it holds a run already.
        model: a named model in place of the recipe's; it keeps those of the recipe's options that
            it has too.
        overrides: settings of the recipe to replace, each ``key.key=value``.
        start: a run or bundle whose weights training starts from, and whose model it takes; the
            data set is that of the run, or one that was appended to it.
        only_new: train on the rows of the last appending only.
        progress: told of each step.

    Raises:
        FinerankError: from the recipe, from preparing, or from training; or ``start`` doesn't fit.
    """
    earlier = None if start is None else load_bundle(find_bundle(start))
    if earlier is not None and model is None:
        taken = {"name": earlier.recipe.model.name, **earlier.recipe.model.options}
        overrides = [f"model={json.dumps(taken)}", *overrides]
    if model is not None:
        options_of(model)  # a wrong name shall not wait for the data
    recipe, dataset = open_source(source, overrides=overrides, progress=progress)
    if model is not None and model != recipe.model.name:
        shared = {
            k: v for k, v in recipe.model.options.items() if k in options_of(model).model_fields
        }
        recipe = recipe.model_copy(update={"model": ModelSettings(name=model, **shared)})
    settings = ModelSettings(name=recipe.model.name, **check_options(recipe.model))
    recipe = recipe.model_copy(update={"model": settings})
    with written_whole(Path(out), marker=METRICS) as folder:
        reset_peak()
        torch.manual_seed(recipe.training.seed)
        network = build(dataset.schema, recipe.model)
        if earlier is not None:
            ours, theirs = dataset.encoder.encodings, earlier.encoder.encodings
            check_grown(dataset.schema, ours, earlier.schema, theirs, str(start))
            start_from(network, earlier.model, str(start))
        kept = dataset.manifest["report"]["negatives_kept"]
        network.correct_for_negatives([kept[task] for task in dataset.schema.tasks])
        trainer = Trainer(
            recipe.training,
            task_weights={name: task.weight for name, task in recipe.tasks.items()},
            progress=progress,
        )
        train_on = dataset.training_set(seed=recipe.training.seed, only_new=only_new)
        fit = trainer.fit(network, train_on, dataset.split("valid"))
        peak = peak_memory_mb()
        metrics: dict[str, Any] = {
            "model": recipe.model.name,
            "valid": fit.valid,
            "test": evaluate(network, dataset.split("test"), progress=progress),
            "training": {
                "samples_per_s": round(fit.samples_per_s, 1),
                "seconds": round(fit.seconds, 3),
                "epochs": len(fit.epochs),
                "best_epoch": fit.best_epoch,
                "peak_memory_mb": round(peak, 1),
                "parameters": sum(p.numel() for p in network.parameters()),
                "device": device_name(trainer.device),
                "precision": fit.precision,
                "resident": fit.resident,
                "compiled": fit.compiled,
                "replayed": fit.replayed,
                "warnings": fit.warnings,
            },
        }
        if (gates := gate_report(network, dataset.split("valid"))) is not None:
            metrics["gates"] = gates
        save_bundle(folder / "bundle", network.cpu(), recipe, dataset)
        (folder / METRICS).write_text(json.dumps(metrics, indent=2))
        (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        with (folder / "log.jsonl").open("w") as log:
            log.writelines(json.dumps(epoch) + "\n" for epoch in fit.epochs)
    return Run(Path(out), metrics)


def evaluate_run(
    run: str | Path,
    *,
    split: SplitName = "test",
    data: str | Path | None = None,
    progress: Progress = silent,
) -> Metrics:
    """Evaluate a run's model, or a bundle, on a split of a prepared data set.

    Args:
        run: a run's folder or a bundle.
        split: which split.
        data: the prepared data set's folder, which may be one appended to that of the training;
            that of the training where left out.
        progress: told of each step.

    Raises:
        FinerankError: there is no bundle or no data set, or they don't fit.
    """
    bundle = load_bundle(find_bundle(run))
    dataset = Dataset(bundle.dataset if data is None else data)
    model = bundle.model
    if dataset.manifest.get("appended"):
        ours, theirs = dataset.encoder.encodings, bundle.encoder.encodings
        check_grown(dataset.schema, ours, bundle.schema, theirs, str(run))
        model = build(dataset.schema, bundle.recipe.model)
        start_from(model, bundle.model, str(run))
    else:
        check_fits(bundle, dataset)
    device = find_device("auto")
    return evaluate(model.to(device), dataset.split(split), progress=progress)
