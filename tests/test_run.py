"""A run's folder: what it holds, and that a failure leaves the one before as it was."""

import json
import shutil

import pytest
import torch
import yaml

from finerank.data.dataset import Dataset
from finerank.errors import FinerankError
from finerank.recipe import Recipe
from finerank.run import evaluate_run, open_source, train
from finerank.training.trainer import Trainer

KEYS = {
    "test": ["auc", "gauc", "log_loss_nats", "rows", "users_scored", "users_one_class"],
    "training": [
        "samples_per_s",
        "seconds",
        "epochs",
        "best_epoch",
        "peak_memory_mb",
        "parameters",
        "device",
        "precision",
        "resident",
        "compiled",
        "replayed",
        "warnings",
    ],
}


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def prepared(shop):
    return Dataset(shop.folder / ".finerank" / "shop").folder


def test_metrics_have_the_documented_keys(shop):
    metrics = json.loads((shop.run / "metrics.json").read_text())
    assert list(metrics) == ["model", "valid", "test", "training"]
    assert metrics["model"] == "din"
    for split in ("valid", "test"):
        assert list(metrics[split]) == ["click", "cart"]
        for numbers in metrics[split].values():
            assert list(numbers) == KEYS["test"]
    assert list(metrics["training"]) == KEYS["training"]
    assert 0 < metrics["training"]["peak_memory_mb"] < 10_000
    assert metrics["training"]["samples_per_s"] > 0
    where = [metrics["training"][key] for key in ("device", "precision", "resident", "compiled")]
    assert where == ["cpu", "float32", True, False]
    assert metrics["training"]["warnings"] == []
    test = metrics["test"]
    assert test["cart"]["rows"] < test["click"]["rows"]  # a cart is judged among clicks only


def test_the_folder_holds_a_run(shop):
    assert sorted(p.name for p in shop.run.iterdir()) == [
        "bundle",
        "log.jsonl",
        "metrics.json",
        "recipe.yaml",
    ]
    log = [json.loads(line) for line in (shop.run / "log.jsonl").read_text().splitlines()]
    keys = ["epoch", "train_loss_nats", "valid", "learning_rate", "task_weights", "seconds"]
    assert [list(epoch) for epoch in log] == [keys] * 2
    metrics = json.loads((shop.run / "metrics.json").read_text())
    assert log[metrics["training"]["best_epoch"] - 1]["valid"] == metrics["valid"]
    recipe = Recipe.load(shop.run / "recipe.yaml")
    assert recipe.model.options["embedding_dim"] == 4
    assert recipe.model.options["dropout"] == 0.0  # defaults are written out


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluating_again_gives_the_same(shop, split):
    metrics = json.loads((shop.run / "metrics.json").read_text())
    assert evaluate_run(shop.run, split=split) == metrics[split]
    assert evaluate_run(shop.run / "bundle", split=split) == metrics[split]


def test_a_data_set_moved_or_gone(shop, prepared, tmp_path):
    moved = shutil.copytree(prepared, tmp_path / "moved")
    assert evaluate_run(shop.run, data=moved) == evaluate_run(shop.run)
    with pytest.raises(FinerankError, match=r"expected a prepared data set .* found none"):
        evaluate_run(shop.run, data=tmp_path / "gone")


def test_a_data_set_prepared_anew_from_another_recipe_is_refused(shop, tmp_path):
    """Same place, other vocabularies."""
    shutil.copytree(shop.folder / "raw", tmp_path / "raw")
    shutil.copy(shop.recipe, tmp_path)
    train(tmp_path / "recipe.yaml", tmp_path / "run", overrides=["training.epochs=1"])
    open_source(tmp_path / "recipe.yaml", overrides=["split.valid_from=400000"])
    with pytest.raises(FinerankError, match="the features and vocabularies that the model was"):
        evaluate_run(tmp_path / "run")


def test_the_same_seed_trains_the_same(prepared, tmp_path):
    overrides = ["training.epochs=1", "model.dropout=0.2"]
    one, other, third = (
        train(prepared, tmp_path / f"run{n}", overrides=[*overrides, f"training.seed={seed}"])
        for n, seed in enumerate([5, 5, 6])
    )
    assert one.metrics["test"] == other.metrics["test"]
    weights = [tree(tmp_path / f"run{n}")["bundle/weights.safetensors"] for n in range(3)]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    assert one.metrics["test"] != third.metrics["test"]


def test_another_model_keeps_the_options_it_shares(prepared, tmp_path):
    run = train(prepared, tmp_path / "run", model="dnn", overrides=["training.epochs=1"])
    assert run.metrics["model"] == "dnn"
    options = yaml.safe_load((run.folder / "recipe.yaml").read_text())["model"]
    assert options["name"] == "dnn"
    assert options["hidden_units"] == [8, 6]
    assert "attention_hidden_units" not in options


def test_weights_of_tasks_count(prepared, tmp_path):
    overrides = ["training.epochs=1", "tasks.cart.weight=1.0e-9"]
    run = train(prepared, tmp_path / "run", overrides=overrides)
    assert (
        run.metrics["test"]["cart"]
        != train(prepared, tmp_path / "other", overrides=overrides[:1]).metrics["test"]["cart"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "dinn"}, r"model\.name: expected a named model, found 'dinn'. Did you mean"),
        ({"overrides": ["model.depth=3"]}, "depth"),
        ({"overrides": ["training.epochs=0"]}, "epochs"),
        ({"overrides": ["histories.clicked.max_length=3"]}, "--set histories.clicked.max_length"),
        ({"overrides": ["split.test_from=1700000"]}, "for a prepared data set, found one that"),
    ],
)
def test_a_wrong_setting_for_a_prepared_data_set(prepared, tmp_path, options, message):
    with pytest.raises(FinerankError, match=message):
        train(prepared, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_wrong_model_does_not_wait_for_the_data(shop, tmp_path):
    shutil.copy(shop.recipe, tmp_path / "recipe.yaml")  # its raw files aren't there
    with pytest.raises(FinerankError, match="expected a named model"):
        train(tmp_path / "recipe.yaml", tmp_path / "run", model="dinn")


def test_a_failure_leaves_the_run_before(prepared, shop, tmp_path, monkeypatch):
    run = shutil.copytree(shop.run, tmp_path / "run")
    before = tree(run)

    def fails(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_epoch", fails)
        with pytest.raises(KeyboardInterrupt):
            train(prepared, run, overrides=["training.seed=3"])
    assert tree(run) == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    train(prepared, run, overrides=["training.seed=3", "training.epochs=1"])
    assert tree(run).keys() == before.keys()
    assert tree(run) != before


def test_a_folder_of_something_else_is_not_replaced(prepared, tmp_path):
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(FinerankError, match="found something else"):
        train(prepared, tmp_path, overrides=["training.epochs=1"])
    assert (tmp_path / "thesis.txt").read_text() == "three years"


def test_a_recipe_may_be_made_in_python(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.load(shop.recipe)
    run = train(recipe, "run", overrides=["training.epochs=1"])
    assert (tmp_path / ".finerank" / "shop").is_dir()
    assert run.metrics["training"]["epochs"] == 1


def test_training_does_not_depend_on_what_ran_before(prepared, tmp_path):
    first = train(prepared, tmp_path / "one", overrides=["training.epochs=1"])
    torch.rand(7)
    second = train(prepared, tmp_path / "two", overrides=["training.epochs=1"])
    assert first.metrics["valid"] == second.metrics["valid"]


def test_a_mixture_reports_its_gates(prepared, tmp_path):
    options = ["training.epochs=1", "model={name: mmoe, num_experts: 3, pooling: target_attention}"]
    run = train(prepared, tmp_path / "run", overrides=options)
    gates = json.loads((run.folder / "metrics.json").read_text())["gates"]
    assert set(gates) == {"mean_share", "entropy_nats", "warnings"}
    for shares in gates["mean_share"].values():
        assert len(shares) == 3
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert evaluate_run(run.folder) == run.metrics["test"]
