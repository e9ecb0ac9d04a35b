"""The training loop: it learns, stops in time, keeps the best, repeats itself, and says why not."""

from dataclasses import replace

import pytest
import torch

from finerank.errors import FinerankError
from finerank.evaluation.evaluator import evaluate
from finerank.models.registry import build
from finerank.settings import ModelSettings, TrainingSettings
from finerank.training import trainer as module
from finerank.training.trainer import Trainer


@pytest.fixture
def schema(made):
    return made.schemas["one history"]


@pytest.fixture
def separable(made, schema):
    """Whether the candidate's id is odd is the label; the user has one so that GAUC has too."""
    examples = made.examples(schema, candidates=[4] * 60, steps=[3] * 60)
    label = (examples.candidate["item"] % 2).float()
    return replace(examples, labels=[label])


@pytest.fixture
def noise(made, schema):
    return made.examples(schema, candidates=[3] * 40, steps=[2] * 40, seed=1)


def model_of(schema, name="dnn", seed=0, **options):
    torch.manual_seed(seed)
    settings = {"embedding_dim": 4, "hidden_units": [8]} | options
    return build(schema, ModelSettings(name=name, **settings))


def fit(model, train, valid, weights=None, **settings):
    settings = {"epochs": 3, "batch_size": 32, "learning_rate": 0.01} | settings
    tasks = weights or dict.fromkeys(train.schema.tasks, 1.0)
    return Trainer(TrainingSettings(**settings), task_weights=tasks).fit(model, train, valid)


@pytest.mark.parametrize("name", ["dnn", "din"])
def test_learns_what_can_be_learned(schema, separable, name):
    model = model_of(schema, name)
    done = fit(
        model,
        separable,
        separable,
        epochs=20,
        learning_rate=0.05,
        patience=20,
        metric="log_loss_nats",
    )
    assert done.valid["click"]["auc"] == 1.0
    assert done.valid["click"]["log_loss_nats"] < 0.02
    first, last = (done.epochs[i]["train_loss_nats"]["click"] for i in (0, -1))
    assert last < first / 10


@pytest.mark.parametrize("metric", ["auc", "log_loss_nats"])
def test_keeps_the_weights_of_the_best_epoch(schema, separable, noise, metric):
    """On noise the training loss falls on while the validation set gets worse."""
    model = model_of(schema)
    done = fit(model, separable, noise, epochs=12, learning_rate=0.05, patience=3, metric=metric)
    values = [epoch["valid"]["click"][metric] for epoch in done.epochs]
    best = max(values) if metric == "auc" else min(values)
    assert done.best_epoch == values.index(best) + 1
    assert done.best_epoch < len(values)  # else there was nothing to restore
    assert len(values) == min(12, done.best_epoch + 3)
    assert done.valid == done.epochs[done.best_epoch - 1]["valid"]
    assert evaluate(model, noise) == done.valid
    assert evaluate(model, noise) != done.epochs[-1]["valid"]


def test_trains_in_training_mode_and_judges_in_the_other(schema, noise):
    """Dice's statistics follow the training batches, and no validation batch."""
    model = model_of(schema, "din")
    done = fit(model, noise, noise, epochs=3, batch_size=30, metric="log_loss_nats")
    dice = model.interaction.mlp.finishes[0][0]
    assert done.best_epoch == 3
    assert dice.normalization.num_batches_tracked == 3 * 4  # 120 candidates, 30 a batch
    assert not model.training


def test_patience_is_counted_in_epochs_without_gain(schema, separable, noise, monkeypatch):
    values = iter([0.5, 0.6, 0.6, 0.55, 0.61, 0.2, 0.3, 0.9])
    monkeypatch.setattr(Trainer, "_watched", lambda *_: next(values))
    done = fit(model_of(schema), separable, noise, epochs=8, patience=2)
    assert (done.best_epoch, len(done.epochs)) == (2, 4)  # equal is no gain


def test_the_same_seed_repeats_itself(schema, noise):
    def train(**options):
        model = model_of(schema, "din", dropout=0.1)
        return fit(model, noise, noise, **options).epochs

    def numbers(epochs):
        return [(epoch["train_loss_nats"], epoch["valid"]) for epoch in epochs]

    assert numbers(train(seed=4)) == numbers(train(seed=4))
    assert numbers(train(seed=4)) != numbers(train(seed=5))


def test_a_step_by_hand(made, schema):
    """One batch, one epoch: Adam's first step is the learning rate against the gradient's sign."""
    examples = made.examples(schema, candidates=[2, 3], steps=[1, 2])
    model = model_of(schema)
    before = {name: weights.clone() for name, weights in model.named_parameters()}
    loss = module.task_losses(model(made.batch(examples)), made.batch(examples).labels).sum()
    gradients = dict(zip(before, torch.autograd.grad(loss, tuple(model.parameters())), strict=True))
    done = fit(model, examples, examples, epochs=1, batch_size=100, metric="log_loss_nats")
    assert done.epochs[0]["train_loss_nats"]["click"] == pytest.approx(loss.item(), abs=1e-6)
    for name, weights in model.named_parameters():
        large = gradients[name].abs() > 1e-4
        expected = before[name] - 0.01 * gradients[name].sign()
        torch.testing.assert_close(weights[large], expected[large], rtol=0, atol=1e-5)
        still = gradients[name] == 0
        assert torch.equal(weights[still], before[name][still])


def embeddings(model):
    return model.inputs.tables["of_user"].detach()


def test_weight_decay_is_of_the_dense_weights(schema, noise):
    """As the recipe documents it; an embedding that no batch uses stays where it is."""
    unused = replace(noise, request={**noise.request, "user": noise.request["user"].clamp(max=3)})
    plain, decayed = model_of(schema), model_of(schema)
    start = embeddings(plain).clone()
    fit(plain, unused, noise, epochs=1)
    fit(decayed, unused, noise, epochs=1, weight_decay=10.0)
    assert torch.equal(embeddings(decayed)[4], start[4])
    assert (embeddings(plain)[:4] != start[:4]).all()
    dense = [m.interaction.mlp.linears[0].weight.square().sum() for m in (decayed, plain)]
    assert dense[0] < 0.9 * dense[1]


def test_embedding_l2_leaves_other_rows_alone(schema, noise):
    unused = replace(noise, request={**noise.request, "user": noise.request["user"].clamp(max=3)})
    plain, shrunk = model_of(schema), model_of(schema)
    start = embeddings(plain).clone()
    fit(plain, unused, noise, epochs=3)
    fit(shrunk, unused, noise, epochs=3, embedding_l2=1000.0)
    assert torch.equal(embeddings(shrunk)[4], start[4])
    assert embeddings(shrunk)[:4].square().sum() < 0.5 * embeddings(plain)[:4].square().sum()


def test_embedding_weight_decay_is_of_every_row(schema, noise):
    unused = replace(noise, request={**noise.request, "user": noise.request["user"].clamp(max=3)})
    plain, decayed = model_of(schema), model_of(schema)
    start = embeddings(plain).clone()
    fit(plain, unused, noise, epochs=1)
    fit(decayed, unused, noise, epochs=1, embedding_weight_decay=10.0)
    assert torch.equal(embeddings(plain)[4], start[4])
    assert (embeddings(decayed)[4].abs() < start[4].abs()).all()


def test_the_learning_rate_falls_on_a_plateau(schema, noise, monkeypatch):
    values = iter([0.5, 0.4, 0.6, 0.6, 0.5, 0.7])
    monkeypatch.setattr(Trainer, "_watched", lambda *_: next(values))
    settings = {"epochs": 6, "patience": 3, "learning_rate": 0.1, "plateau_factor": 0.5}
    done = fit(model_of(schema), noise, noise, **settings)
    rates = [epoch["learning_rate"] for epoch in done.epochs]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.0125])


def test_uncertainty_learns_the_tasks_weights(made):
    """The task that can't be learned becomes lighter than the one that can."""
    schema = made.schemas["every type"]
    examples = made.examples(schema, candidates=[3] * 60, steps=[2] * 60)
    learned = (examples.candidate["item"] % 2).float()
    examples = replace(examples, labels=[learned, *examples.labels[1:]])
    settings = {"epochs": 40, "learning_rate": 0.03, "patience": 40, "metric": "log_loss_nats"}
    fixed = fit(model_of(schema, hidden_units=[4]), examples, examples, **settings)
    assert fixed.epochs[-1]["task_weights"] == dict.fromkeys(schema.tasks, 1.0)
    done = fit(
        model_of(schema, hidden_units=[4]),
        examples,
        examples,
        {"click": 1.0, "cart": 2.0, "order": 1.0},
        task_weights="uncertainty",
        **settings,
    )
    weights = done.epochs[-1]["task_weights"]
    assert done.epochs[-1]["train_loss_nats"]["click"] < 0.3
    assert weights["click"] > 1.5
    assert weights["click"] > weights["cart"] / 2 > 0.5


def test_task_weights_weigh_the_losses(made):
    schema = made.schemas["every type"]
    examples = made.examples(schema, candidates=[3] * 30, steps=[2] * 30)
    models = [model_of(schema), model_of(schema)]
    for model, weights in zip(
        models,
        ({"click": 1.0, "cart": 1.0, "order": 1.0}, {"click": 1.0, "cart": 1e-6, "order": 1e-6}),
        strict=True,
    ):
        done = fit(
            model,
            examples,
            examples,
            weights,
            epochs=25,
            learning_rate=0.02,
            patience=25,
            metric="log_loss_nats",
        )
        last = done.epochs[-1]["train_loss_nats"]
        assert last["click"] < 0.5
        assert (last["cart"] < 0.5) == (weights["cart"] == 1.0)


def test_the_watched_metric_is_the_mean_over_the_tasks(made):
    schema = made.schemas["every type"]
    trainer = Trainer(TrainingSettings(metric="auc"), task_weights=dict.fromkeys(schema.tasks, 1.0))
    metrics = {"click": {"auc": 0.5}, "cart": {"auc": 0.6}, "order": {"auc": 0.9}}
    assert trainer._watched(metrics) == pytest.approx(2 / 3)


@pytest.mark.parametrize("learning_rate", [1e30, 1e20])
def test_a_loss_that_is_no_longer_finite(schema, noise, learning_rate):
    with pytest.raises(FinerankError, match="expected a finite loss") as caught:
        fit(model_of(schema), noise, noise, learning_rate=learning_rate)
    assert caught.value.fix == "Lower training.learning_rate."


def test_weights_that_break_in_the_last_step(schema, noise):
    """The loss of the step was finite still, and the scores after it are not."""
    with pytest.raises(FinerankError, match="expected a finite loss"):
        fit(model_of(schema), noise, noise, batch_size=10_000, learning_rate=float("inf"))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("auc", r"training\.metric: auc: expected both classes in the validation set, found"),
        ("gauc", r"training\.metric: gauc: .*, for at least one user, found"),
    ],
)
def test_a_validation_set_of_one_class(schema, noise, metric, message):
    ones = replace(noise, labels=[torch.ones(noise.num_candidates)])
    with pytest.raises(FinerankError, match=message) as caught:
        fit(model_of(schema), noise, ones, metric=metric)
    assert "log_loss_nats" in caught.value.fix
    fit(model_of(schema), noise, ones, epochs=1, metric="log_loss_nats")


def test_a_training_batch_of_one_class_is_fine(schema, noise):
    """DeepCTR-Torch stops here."""
    ones = replace(noise, labels=[torch.ones(noise.num_candidates)])
    assert fit(model_of(schema, "din"), ones, noise, epochs=1).best_epoch == 1


def test_speed_counts_all_candidates(schema, noise, monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    done = fit(model_of(schema), noise, noise, epochs=2)
    assert done.samples_per_s == noise.num_candidates * 2 / 2  # one tick an epoch of training
    assert done.seconds > 2
