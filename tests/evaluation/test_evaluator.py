"""Scores of whole sets, and metrics against a loop in plain Python."""

from dataclasses import replace
from math import exp, log

import pytest
import torch

from finerank.data.dataset import Dataset
from finerank.evaluation.evaluator import evaluate, metrics_of, score
from finerank.models.registry import build
from finerank.settings import ModelSettings


@pytest.fixture
def schema(made):
    return made.schemas["every type"]


@pytest.fixture
def examples(made, schema):
    return made.examples(schema, candidates=[3, 1, 5, 2] * 5, steps=[0, 4, 2, 1] * 5)


@pytest.fixture
def model(schema):
    torch.manual_seed(0)
    return build(schema, ModelSettings(name="din", embedding_dim=4))


def test_scores_are_in_the_order_of_the_candidates(model, made, examples):
    model.train()
    whole = score(model, examples)
    assert not model.training
    assert whole.shape == (examples.num_candidates, 3)
    with torch.no_grad():
        expected = model(made.batch(examples)).numpy()
    assert abs(whole - expected).max() < 1e-6
    assert expected.std() > 1e-3
    assert abs(score(model, examples, batch_size=7) - expected).max() < 1e-6


def test_progress_reaches_the_total(model, examples):
    seen = []

    class Step:
        def __call__(self, step, total):
            seen.append(total)
            return self

        def __enter__(self):
            return lambda amount=1, remark="": seen.append(-amount)

        def __exit__(self, *error):
            return None

    score(model, examples, progress=Step())
    assert sum(seen) == 0
    assert seen[0] == examples.num_candidates


def test_nothing_to_score(model, schema, made):
    none = made.examples(schema, candidates=[], steps=[])
    assert score(model, none).shape == (0, 3)


def test_metrics_against_plain_python(shop):
    """One user, two tasks, a missing label; AUC by counting pairs."""
    test = Dataset(shop.folder / ".finerank" / "shop").split("test")
    logits = torch.linspace(-2, 2, test.num_candidates).roll(17)[:, None] * torch.tensor([1.0, -1])
    found = metrics_of(logits.numpy(), test)
    user = test.user.repeat_interleave(test.first_candidate.diff()).tolist()
    for column, task in enumerate(("click", "cart")):
        rows = [
            (u, y, z)
            for u, y, z in zip(
                user, test.labels[column].tolist(), logits[:, column].tolist(), strict=True
            )
            if y == y  # noqa: PLR0124
        ]
        assert found[task]["rows"] == len(rows)
        assert found[task]["auc"] == pytest.approx(auc([(y, z) for _, y, z in rows]), abs=1e-12)
        loss = sum(log(1 + exp(-z if y else z)) for _, y, z in rows) / len(rows)
        assert found[task]["log_loss_nats"] == pytest.approx(loss, abs=1e-6)
        by_user = {}
        for u, y, z in rows:
            by_user.setdefault(u, []).append((y, z))
        both = [r for r in by_user.values() if len({y for y, _ in r}) == 2]
        weighted = sum(len(r) * auc(r) for r in both) / sum(map(len, both))
        assert found[task]["gauc"] == pytest.approx(weighted, abs=1e-12)
        assert found[task]["users_scored"] == len(both)
        assert found[task]["users_one_class"] == len(by_user) - len(both)


def auc(rows):
    positive, negative = ([z for y, z in rows if y == label] for label in (1, 0))
    won = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
    return won / (len(positive) * len(negative))


def test_without_users_there_is_no_gauc(model, examples):
    metrics = evaluate(model, examples)
    assert list(metrics) == ["click", "cart", "order"]
    assert metrics["click"]["gauc"] is None
    assert metrics["click"]["users_scored"] == 0
    assert 0 < metrics["click"]["auc"] < 1


def test_a_task_without_labels(model, examples):
    missing = torch.full((examples.num_candidates,), torch.nan)
    some = replace(examples, labels=[examples.labels[0], missing, examples.labels[2]])
    metrics = evaluate(model, some)
    assert metrics["cart"] == {
        "auc": None,
        "gauc": None,
        "log_loss_nats": None,
        "rows": 0,
        "users_scored": 0,
        "users_one_class": 0,
    }
    assert metrics["click"] == evaluate(model, examples)["click"]
