"""Negatives thinned out of the training set, and probabilities corrected for it."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import finerank
from finerank.data.arrow_file import read_columns
from finerank.errors import FinerankError
from finerank.evaluation.evaluator import score
from finerank.recipe import Recipe

SETTINGS = {
    "log": {"user": "user", "item": "item", "time": "at"},
    "features": {"item": {"side": "item", "type": "id"}},
    "histories": {"seen": {"features": ["item"], "max_length": 3}},
    "tasks": {"click": "click", "order": "bought"},
    "split": {"by": "time", "valid": 0.1, "test": 0.2},
    "model": {"name": "dnn", "embedding_dim": 4, "hidden_units": [8]},
    "training": {
        "epochs": 6,
        "batch_size": 256,
        "learning_rate": 0.01,
        "metric": "log_loss_nats",
        "patience": 6,
    },
}
ROWS = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log whose click rate is 2 to 16 % by item; one click in four is an order."""
    folder, random = tmp_path_factory.mktemp("log"), np.random.default_rng(0)
    item = random.integers(8, size=ROWS)
    click = random.random(ROWS) < 0.02 * (item + 1)
    bought = click & (random.random(ROWS) < 0.25)
    table = {"user": random.integers(50, size=ROWS), "item": item, "at": np.arange(ROWS)}
    table |= {"click": click.astype(int), "bought": bought.astype(int)}
    pq.write_table(pa.table(table), folder / "log.parquet")
    return folder


def prepared(folder, out, **negatives):
    settings = {**SETTINGS, "log": {**SETTINGS["log"], "path": str(folder / "log.parquet")}}
    settings |= {"negatives": negatives} if negatives else {}
    return finerank.prepare(Recipe.parse(settings), folder / out)


@pytest.fixture(scope="module")
def thin(folder):
    return prepared(folder, "thin", keep=0.2)


def test_only_training_rows_without_any_positive_are_left_out(folder, thin):
    full = prepared(folder, "full").manifest["report"]
    report = thin.manifest["report"]
    assert full["negatives_kept"] == {"click": 1.0, "order": 1.0}
    for split in ("valid", "test"):
        assert report["rows"][split] == full["rows"][split]
        assert report["label_rate"][split] == full["label_rate"][split]
    clicks = full["rows"]["train"] * full["label_rate"]["train"]["click"]
    assert report["rows"]["train"] * report["label_rate"]["train"]["click"] == pytest.approx(
        clicks, abs=0.1
    )
    left_out = report["rows_dropped"]["negative not kept"]
    assert report["rows"]["train"] + left_out == full["rows"]["train"]
    negatives = full["rows"]["train"] - clicks
    kept = report["negatives_kept"]
    assert kept["click"] == pytest.approx(1 - left_out / negatives, rel=1e-5)
    assert kept["click"] == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / negatives))
    assert kept["order"] > kept["click"]  # clicks without an order are all kept
    assert report["events"] == full["events"]  # what isn't trained on is history still


def test_the_mean_prediction_is_the_base_rate(folder, thin):
    run = finerank.train(thin.folder, folder / "run")
    bundle = finerank.load(run.folder).bundle
    test = finerank.Dataset(thin.folder).split("test")
    corrected = 1 / (1 + np.exp(-score(bundle.model, test)))
    rates = np.array([labels.mean().item() for labels in test.labels])
    assert corrected.mean(axis=0) == pytest.approx(rates, rel=0.15)
    shift = bundle.model.log_odds_shift.clone()
    assert shift.tolist() == pytest.approx(
        [math.log(thin.manifest["report"]["negatives_kept"][t]) for t in ("click", "order")]
    )
    bundle.model.log_odds_shift.zero_()
    plain = 1 / (1 + np.exp(-score(bundle.model, test)))
    assert (plain.mean(axis=0) > 2.5 * rates).all()
    batch = test.batch(torch.arange(5))
    bundle.model.log_odds_shift.copy_(shift)
    torch.testing.assert_close(
        bundle.model.eval()(batch) - bundle.model.train()(batch), shift.expand(5, 2)
    )


def test_evaluation_is_of_the_corrected_probabilities(folder, thin):
    run = finerank.train(thin.folder, folder / "other")
    click = run.metrics["test"]["click"]
    rate = thin.manifest["report"]["label_rate"]["test"]["click"]
    base = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    assert click["log_loss_nats"] < base  # better than the base rate alone


def test_the_seed_decides_which_are_kept(folder, thin):
    def times(prepared):
        return read_columns(prepared.folder / "train" / "requests.arrow")["time"].tolist()

    same = prepared(folder, "same", keep=0.2)
    other = prepared(folder, "other-seed", keep=0.2, seed=1)
    assert times(same) == times(thin)
    assert times(other) != times(thin)


def test_sampled_negatives_stand_beside_those_kept(folder):
    report = prepared(folder, "both", keep=0.2, per_positive=1).manifest["report"]
    positives = report["rows"]["train"] * report["label_rate"]["train"]["click"]
    assert report["negatives"]["train"] + report["negatives_lacking"]["train"] > positives
    assert report["negatives_kept"]["click"] < 0.3


def test_none_left(folder):
    with pytest.raises(FinerankError, match=r"negatives.keep: expected a share that leaves labels"):
        prepared(folder, "none", keep=1e-9)
