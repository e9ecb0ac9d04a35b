"""Steps that a device replays: the same numbers as those that it is told one by one.

What a device does is imitated on the CPU: each operation is noted with its tensors and numbers as
they are, done again with the same, and what it gives is written to where it was. Where torch sees a
GPU, the last tests run on it.
"""

from types import MappingProxyType

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finerank.data.loader import Loader
from finerank.data.placement import Copied, Resident
from finerank.models.registry import build
from finerank.nn import host
from finerank.settings import ModelSettings, TrainingSettings
from finerank.training import replay as module
from finerank.training.row_optimizers import DeferredAdam
from finerank.training.trainer import Trainer

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
MODELS = ["dnn", "din", "deepfm", "wide_deep", "dcn", "mmoe", "ple"]


class Recorder(TorchDispatchMode):
    """Notes operations, and does them again. What they change meanwhile is as it was afterwards."""

    def __init__(self):
        super().__init__()
        self.noted, self.made, self.before = [], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for each in tensors((args, kwargs)):
            if (place := place_of(each)) not in self.made and place not in self.before:
                whole = torch.empty(0, dtype=torch.uint8).set_(each.untyped_storage())
                self.before[place] = whole, whole.clone()
        result = func(*args, **kwargs)
        self.made |= {place_of(each) for each in tensors(result)} - set(self.before)
        self.noted.append((func, args, kwargs, result))
        return result

    def undo(self):
        for whole, value in self.before.values():
            whole.copy_(value)

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, result in self.noted:
            given = {place_of(each) for each in tensors((args, kwargs))}
            again = func(*args, **kwargs)
            for old, new in zip(tensors(result), tensors(again), strict=True):
                assert old.shape == new.shape
                if place_of(new) not in given:
                    old.detach().copy_(new)


def tensors(tree):
    return [each for each in tree_leaves(tree) if isinstance(each, torch.Tensor)]


def place_of(tensor):
    return tensor.untyped_storage().data_ptr()


@pytest.fixture
def recorders(monkeypatch):
    """One for each recording so far."""
    made = []

    def record(function, device, generators):
        states = [each.get_state() for each in generators]
        made.append(Recorder())
        with made[-1]:
            function()
        made[-1].undo()
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        return made[-1].replay

    monkeypatch.setattr(module, "record", record)
    monkeypatch.setattr(module, "is_possible", lambda examples: isinstance(examples, Resident))
    monkeypatch.setattr(host, "is_readable", lambda tensor: False)
    return made


def examples_of(made, name):
    """Requests of different sizes; labels in float64, so that all that is learned from is."""
    examples = made.examples(made.schemas[name], candidates=[3, 1, 2, 4] * 30, steps=[2, 0, 5] * 40)
    examples.labels[:] = [each.double() for each in examples.labels]
    return examples


def model_of(schema, name="din", **options):
    torch.manual_seed(0)
    units = {"hidden_units": [6]} if name not in ("mmoe", "ple") else {"expert_units": [6]}
    return build(schema, ModelSettings(name=name, embedding_dim=4, **units | options)).double()


def trained(examples, name="din", options=MappingProxyType({}), **settings):
    """The fit, and the weights in float64."""
    settings = {
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 0.01,
        "device": "cpu",
        "metric": "log_loss_nats",
        "patience": 9,
    } | settings
    schema = examples.schema
    model = model_of(schema, name, **options)
    trainer = Trainer(TrainingSettings(**settings), task_weights=dict.fromkeys(schema.tasks, 1.0))
    trainer.weighting.double()
    placed = Resident(examples, examples, CPU) if settings["device"] == "cpu" else examples
    fit = trainer.fit(model, placed, examples)
    return fit, {name: value.cpu() for name, value in model.state_dict().items()}


def assert_trained_alike(found, expected, *, rtol=1e-9, atol=1e-11):
    for ours, theirs in zip(found[0].epochs, expected[0].epochs, strict=True):
        assert ours["train_loss_nats"] == pytest.approx(theirs["train_loss_nats"], abs=2e-6)
    for key, value in expected[1].items():
        torch.testing.assert_close(found[1][key], value, msg=key, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_as_step_by_step(made, recorders, monkeypatch, name):
    examples = examples_of(made, "every type")
    found = trained(examples, name)
    assert (found[0].replayed, found[0].warnings) == (True, [])
    assert len(recorders) == 1
    monkeypatch.setattr(module, "is_possible", lambda examples: False)
    expected = trained(examples, name)
    assert not expected[0].replayed
    assert_trained_alike(found, expected)


@pytest.mark.parametrize("schema", ["flat", "numbers only", "one history", "steps of their own"])
def test_every_schema_trains_as_step_by_step(made, recorders, monkeypatch, schema):
    examples = examples_of(made, schema)
    found = trained(examples)
    assert found[0].replayed
    monkeypatch.setattr(module, "is_possible", lambda examples: False)
    assert_trained_alike(found, trained(examples))


SETTINGS = [
    {"embedding_optimizer": "lazy_adam"},
    {"embedding_optimizer": "rowwise_adagrad", "embedding_l2": 0.5},
    {"embedding_weight_decay": 0.1, "weight_decay": 0.1},
    {"task_weights": "uncertainty"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_setting_trains_as_step_by_step(made, recorders, monkeypatch, settings):
    examples, options = examples_of(made, "every type"), {"normalization": "batch"}
    found = trained(examples, options=options, **settings)
    assert found[0].replayed
    monkeypatch.setattr(module, "is_possible", lambda examples: False)
    assert_trained_alike(found, trained(examples, options=options, **settings))


def test_ids_dropped_and_units_dropped_are_others_in_every_step(made, recorders):
    examples = examples_of(made, "every type")
    examples.labels[:] = [torch.zeros_like(each) for each in examples.labels]
    options = {"dropout": 0.5}
    fits = [trained(examples, options=options, **more)[0] for more in ({}, {"id_dropout": 0.5})]
    for fit in fits:
        losses = [epoch["train_loss_nats"]["click"] for epoch in fit.epochs]
        assert fit.replayed
        assert losses == sorted(losses, reverse=True)
    drawn = [
        [result for func, _, _, result in each.noted if "rand" in str(func) or "bern" in str(func)]
        for each in recorders
    ]
    assert all(drawn)
    for each, recorder in zip(drawn, recorders, strict=True):
        before = [result.clone() for result in each]
        recorder.replay()
        assert not any(map(torch.equal, each, before))


def test_recorded_anew_where_the_learning_rate_has_changed(made, recorders, monkeypatch):
    examples, settings = examples_of(made, "one history"), {"metric": "auc", "plateau_factor": 0.5}
    monkeypatch.setattr(Trainer, "_watched", lambda self, metrics: 0.0)  # never better
    found = trained(examples, **settings)
    rates = [epoch["learning_rate"] for epoch in found[0].epochs]
    assert rates == [0.01, 0.01, 0.005]
    assert len(recorders) == 2
    monkeypatch.setattr(module, "is_possible", lambda examples: False)
    assert_trained_alike(found, trained(examples, **settings))


def test_recorded_anew_where_what_optimisers_keep_has_moved(made, recorders, monkeypatch):
    monkeypatch.setattr(DeferredAdam, "_room", 8)
    examples = examples_of(made, "one history")
    found = trained(examples)
    steps = len(list(Loader(examples, batch_size=16))) * len(found[0].epochs)
    assert 32 < steps < 64
    assert len(recorders) == 4  # the first, and in steps 8, 16 and 32
    monkeypatch.setattr(module, "is_possible", lambda examples: False)
    assert_trained_alike(found, trained(examples))


def test_recorded_anew_where_it_moved_in_a_step_that_was_told(made, recorders, monkeypatch):
    monkeypatch.setattr(DeferredAdam, "_room", 8)
    steps = iter(range(1000))
    monkeypatch.setattr(module.Replay, "_is_unusual", lambda self, sizes: next(steps) == 7)
    examples = examples_of(made, "one history")
    found = trained(examples, epochs=1)
    assert next(steps) > 8
    assert len(recorders) > 1
    monkeypatch.setattr(module, "is_possible", lambda examples: False)
    assert_trained_alike(found, trained(examples, epochs=1))


@pytest.mark.parametrize(("longest", "deviations"), [(2, 3), (30, 0), (900, 3)])
def test_batches_of_many_steps(made, recorders, monkeypatch, longest, deviations):
    """Recorded once, or anew with more room, or the one that is by far the longest not at all."""
    monkeypatch.setattr(module, "_DEVIATIONS", deviations)
    steps, told = [2, 1, 3, 2] * 249 + [2, 2, 2, longest], []
    examples = made.examples(made.schemas["one history"], candidates=[1] * 1000, steps=steps)
    examples.labels[:] = [each.double() for each in examples.labels]
    made_as_told = Resident.made

    def made_(self, requests, sizes, count=None):
        told.append(sizes["steps", "clicked"] if count is None else 0)
        return made_as_told(self, requests, sizes, count)

    monkeypatch.setattr(Resident, "made", made_)
    settings = {"embedding_optimizer": "lazy_adam", "epochs": 1}
    found = trained(examples, **settings)
    if longest == 900:
        assert sum(size > 0 for size in told) == len(found[0].epochs)
        assert max(told) > 900
    else:
        assert max(told) == 0
    assert (len(recorders) > 1) == (longest == 30)
    monkeypatch.setattr(module, "is_possible", lambda examples: False)
    assert_trained_alike(found, trained(examples, **settings))


def test_batches_that_have_none_of_something_are_not_replayed(made, recorders, monkeypatch):
    schema, told = made.schemas["one history"], []
    examples = made.examples(schema, candidates=[1] * 34, steps=[0] * 32 + [3, 2])
    examples.labels[:] = [each.double() for each in examples.labels]
    found = trained(examples, batch_size=2)
    made_, count = Resident.made, examples.num_requests

    def made_told(self, requests, sizes, filled=None):
        told.append(filled is None)
        return made_(self, requests, sizes, filled)

    monkeypatch.setattr(Resident, "made", made_told)
    trained(examples, batch_size=2, epochs=1)
    assert told.count(True) >= count // 2 - 2
    monkeypatch.setattr(module, "is_possible", lambda examples: False)
    assert_trained_alike(found, trained(examples, batch_size=2))


def test_goes_on_as_told_where_nothing_can_be_recorded(made, recorders, monkeypatch):
    record = module.record

    def first_then_fails(function, *given):
        record(function, *given)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(module, "record", first_then_fails)
    examples = examples_of(made, "every type")
    found = trained(examples)
    assert not found[0].replayed
    (warning,) = found[0].warnings
    assert warning.startswith("training: steps could not be replayed, so that ")
    assert warning.endswith("RuntimeError: operation not permitted when stream is capturing")
    monkeypatch.setattr(module, "is_possible", lambda examples: False)
    assert_trained_alike(found, trained(examples))


def test_only_a_device_that_holds_the_examples_replays(made):
    examples = examples_of(made, "flat")
    assert not module.is_possible(examples)
    assert not module.is_possible(Copied(examples, torch.device("cuda")))
    assert not module.is_possible(Resident(examples, examples, CPU))
    assert module.is_possible(Resident(examples, examples, torch.device("cuda")))


@needs_cuda
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_replays(made, name, compiled):
    """In float64, and what torch compiles for it as well."""
    examples = examples_of(made, "every type")
    found = trained(examples, name, device="cuda", precision="float32", compile=compiled)
    assert (found[0].replayed, found[0].compiled, found[0].warnings) == (True, compiled, [])
    assert_trained_alike(found, trained(examples, name, device="cpu"), rtol=1e-6, atol=1e-8)


@needs_cuda
def test_a_gpu_replays_what_it_draws(made):
    examples = examples_of(made, "every type")
    options, settings = {"dropout": 0.5}, {"id_dropout": 0.5, "precision": "float32"}
    fit, _ = trained(examples, options=options, device="cuda", **settings)
    assert (fit.replayed, fit.warnings) == (True, [])
