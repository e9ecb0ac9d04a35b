"""Ids taken for unknown: the stated share, ids only, and the unknown row learns."""

import pytest
import torch

from finerank.data.batch import Jagged
from finerank.models.registry import build
from finerank.settings import ModelSettings, TrainingSettings
from finerank.training.id_dropout import IdDropout
from finerank.training.trainer import Trainer


def columns(batch):
    yield from batch.request.items()
    yield from batch.candidate.items()
    for steps in batch.histories.values():
        yield from steps.columns.items()


def values(column):
    return column.values if isinstance(column, Jagged) else column


def test_drops_the_share_of_the_ids_and_nothing_else(made):
    schema = made.schemas["every type"]
    batch = made.batch(made.examples(schema, candidates=[3] * 400, steps=[4] * 400))
    dropped = IdDropout(schema, 0.25, seed=0)(batch)
    ids = 0
    for (name, before), (same, after) in zip(columns(batch), columns(dropped), strict=True):
        assert name == same
        if schema.feature(name).space is None:
            assert after is before
            continue
        was, now = values(before), values(after)
        assert ((now == was) | (now == 0)).all()
        known = was != 0
        share = (now[known] == 0).double().mean().item()
        assert share == pytest.approx(0.25, abs=4 * (0.1875 / int(known.sum())) ** 0.5)
        ids += 1
        if isinstance(before, Jagged):
            assert torch.equal(before.offsets, after.offsets)
    assert ids >= 4
    assert torch.equal(dropped.labels, batch.labels)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_unknown_row_learns(made, share):
    schema = made.schemas["one history"]
    examples = made.examples(schema, candidates=[3] * 40, steps=[2] * 40)
    examples.candidate["item"].clamp_(min=1)
    examples.request["user"].clamp_(min=1)
    examples.stores["clicked"].columns["item"].clamp_(min=1)
    model = build(schema, ModelSettings(name="dnn"))
    before = model.inputs.tables["of_item"].detach().clone()
    settings = TrainingSettings(epochs=1, batch_size=30, id_dropout=share, metric="log_loss_nats")
    Trainer(settings, task_weights={"click": 1.0}).fit(model, examples, examples)
    moved = (model.inputs.tables["of_item"] != before).any(dim=1)
    assert moved[1:].all()
    assert moved[0] == (share > 0)
