"""Which optimiser a recipe's settings make, and that each trains as its plain form does."""

import pytest
import torch

from finerank.data.loader import Loader
from finerank.models.registry import build
from finerank.settings import ModelSettings, TrainingSettings
from finerank.training.loss import WeightedSum, task_losses
from finerank.training.optimizers import Optimizers
from finerank.training.trainer import Trainer


@pytest.fixture
def examples(made):
    return made.examples(made.schemas["every type"], candidates=[2, 3] * 10, steps=[4, 0] * 10)


def model_of(schema):
    torch.manual_seed(0)
    return build(schema, ModelSettings(name="deepfm", embedding_dim=4, hidden_units=[8]))


@pytest.mark.parametrize("name", ["lazy_adam", "rowwise_adagrad"])
def test_weight_decay_of_every_row_needs_an_optimizer_of_every_row(name):
    with pytest.raises(ValueError, match=f"embedding_optimizer: adam .*{name}"):
        TrainingSettings(embedding_optimizer=name, embedding_weight_decay=0.1)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_the_one_of_torch_over_all_weights(examples, decay):
    ours, plain = model_of(examples.schema), model_of(examples.schema)
    settings = TrainingSettings(
        epochs=2,
        batch_size=8,
        embedding_weight_decay=decay,
        embedding_optimizer="adam",
        metric="log_loss_nats",
        patience=9,
    )
    tasks = dict.fromkeys(examples.schema.tasks, 1.0)
    trainer = Trainer(settings, task_weights=tasks)
    trainer.fit(ours, examples, examples)
    tables = [tables.weight for tables in (plain.inputs.tables, plain.shortcuts[0].inputs.tables)]
    dense = [p for p in plain.parameters() if not any(p is table for table in tables)]
    adam = torch.optim.Adam([{"params": tables, "weight_decay": decay}, {"params": dense}], lr=1e-3)
    loader = Loader(examples, batch_size=8, shuffle=True)
    for _ in range(2):
        for batch in loader:
            loss = task_losses(plain(batch), batch.labels).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
    expected = plain.state_dict()
    for name, weights in ours.state_dict().items():
        torch.testing.assert_close(weights, expected[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["lazy_adam", "rowwise_adagrad", "adam"])
def test_a_plateau_slows_all_weights_down(examples, name):
    settings = TrainingSettings(learning_rate=0.1, embedding_optimizer=name)
    moved = []
    for factor in (1.0, 0.01):
        model = model_of(examples.schema)
        before = [weights.detach().clone() for weights in model.parameters()]
        optimizers = Optimizers(model, WeightedSum([1.0]), settings)
        optimizers.slow_down(factor)
        assert optimizers.learning_rate == pytest.approx(0.1 * factor)
        with optimizers.sparse_tables():
            model(examples.batch(torch.arange(4))).sum().backward()
            optimizers.step()
        moved.append(
            [(p - b).abs().max().item() for p, b in zip(model.parameters(), before, strict=True)]
        )
    for fast, slow in zip(*moved, strict=True):
        assert slow == pytest.approx(0.01 * fast, rel=0.05, abs=1e-6)
    assert all(fast > 0 for fast in moved[0])


def test_tables_are_sparse_in_training_only(examples):
    model = model_of(examples.schema)
    tables = [model.inputs.tables, model.shortcuts[0].inputs.tables]
    optimizers = Optimizers(model, WeightedSum([1.0]), TrainingSettings())
    with optimizers.sparse_tables():
        assert all(each.sparse for each in tables)
        model(examples.batch(torch.arange(4))).sum().backward()
    assert not any(each.sparse or each.in_use or each.catch_up for each in tables)
    model(examples.batch(torch.arange(4))).sum().backward()
    assert all(each.weight.grad.abs().sum() > 0 for each in tables)


def test_a_forward_finds_no_gradients_of_the_step_before(examples):
    model, found = model_of(examples.schema), []

    def look(model, _):
        if model.training:
            found.append([name for name, p in model.named_parameters() if p.grad is not None])

    model.register_forward_pre_hook(look)
    settings = TrainingSettings(epochs=1, batch_size=8, metric="log_loss_nats")
    tasks = dict.fromkeys(examples.schema.tasks, 1.0)
    Trainer(settings, task_weights=tasks).fit(model, examples, examples)
    assert len(found) > 2
    assert not any(found)
