"""Training by compiled code: the same numbers, compiled once, and a way back where it can't be.

The device's form is compiled on the CPU here, with its tensors declared unreadable, by what torch's
compiler does ahead of a device's own code. Where torch sees a GPU, the last test runs on it.
"""

import re
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import aot_eager

from finerank.data.loader import Loader
from finerank.data.placement import Resident
from finerank.data.schema import History, Schema
from finerank.models.inputs import Inputs
from finerank.models.interactions import Deep
from finerank.models.registry import MODELS, build
from finerank.nn import host
from finerank.nn.mlp import MLP
from finerank.settings import ModelSettings, TrainingSettings
from finerank.training import compiling
from finerank.training.compiling import Compiler
from finerank.training.optimizers import Optimizers
from finerank.training.trainer import Fit, Trainer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
UNITS = ("hidden_units", "expert_units", "tower_units", "attention_hidden_units", "bottom_units")

# what torch's compiler does, which it or Python hides from people where nobody asks for errors
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning"),
]

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.fixture(autouse=True)
def _forget_what_was_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def unreadable(monkeypatch):
    monkeypatch.setattr(host, "is_readable", lambda tensor: False)


@pytest.fixture
def graphs(monkeypatch, unreadable):
    """What was compiled so far, a graph each."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return aot_eager(graph, inputs)

    monkeypatch.setattr(compiling, "_BACKEND", backend)
    return compiled


@pytest.fixture(scope="session")
def schema(made):
    features = made.features(
        "user:id:user", "context:number:hour", "item:id:item", "item:ids:tags@tag"
    )
    return Schema(features, (History("clicked", ("item", "tags"), max_length=9),), ("a", "b"))


@pytest.fixture(scope="session")
def examples(made, schema):
    """Sixty requests; labels in float64, so that all that is learned from is."""
    examples = made.examples(schema, candidates=[3, 1, 2] * 20, steps=[2, 0, 5, 7, 1] * 12)
    examples.labels[:] = [each.double() for each in examples.labels]
    return examples


def model_of(schema, name="dnn", *, dtype=torch.float64, **options):
    torch.manual_seed(0)
    known = MODELS[name].__init__.__kwdefaults__
    units = {each: [5] for each in UNITS if each in known}
    return build(schema, ModelSettings(name=name, embedding_dim=3, **units | options)).to(dtype)


def trainer_of(schema, **settings):
    settings = {
        "epochs": 1,
        "batch_size": 16,
        "device": "cpu",
        "metric": "log_loss_nats",
    } | settings
    trainer = Trainer(TrainingSettings(**settings), task_weights=dict.fromkeys(schema.tasks, 1.0))
    trainer.weighting.double()
    return trainer


class Trained(NamedTuple):
    """A fit, the weights, and how many graphs had been compiled after each batch."""

    fit: Fit
    weights: dict[str, torch.Tensor]
    counts: list[int]


def trained(
    examples,
    name="dnn",
    graphs=(),
    *,
    options=MappingProxyType({}),
    dtype=torch.float64,
    **settings,
):
    model, counts = model_of(examples.schema, name, dtype=dtype, **options), []
    trainer = trainer_of(examples.schema, **settings)

    @contextmanager
    def progress(step, total):
        yield lambda amount, remark: counts.append(len(graphs))

    trainer.progress = progress
    fit = trainer.fit(model, Resident(examples, examples, CPU), examples)
    return Trained(fit, model.state_dict(), counts)


def assert_trained_alike(found, expected, *, rtol=1e-9, atol=1e-11):
    for ours, theirs in zip(found.fit.epochs, expected.fit.epochs, strict=True):
        assert ours["train_loss_nats"] == pytest.approx(theirs["train_loss_nats"], abs=2e-6)
    for key, value in expected.weights.items():
        torch.testing.assert_close(found.weights[key], value, msg=key, rtol=rtol, atol=atol)


def assert_compiled_once(found):
    """In the first batch, and in none of the others."""
    assert (found.fit.compiled, found.fit.warnings) == (True, [])
    assert len(found.counts) >= 7
    assert found.counts[0] >= 2
    assert found.counts == [found.counts[0]] * len(found.counts)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_trains_as_uncompiled_and_is_compiled_once(graphs, examples, name):
    """Over batches of different numbers of requests, candidates, steps and pairs."""
    found = trained(examples, name, graphs, compile=True)
    assert_compiled_once(found)
    assert_trained_alike(found, trained(examples, name))


def test_settings_and_parts_of_every_kind(made, graphs):
    """Two attentions, each compiled for itself, and whatever else follows the lookup."""
    schema = made.schemas["every type"]
    examples = made.examples(schema, candidates=[3, 1, 2] * 20, steps=[2, 0, 5, 7, 3] * 12)
    examples.labels[:] = [each.double() for each in examples.labels]
    settings = {
        "embedding_optimizer": "rowwise_adagrad",
        "embedding_l2": 0.5,
        "id_dropout": 0.3,
        "task_weights": "uncertainty",
    }
    options = {"activation": "relu", "normalization": "batch", "attention_softmax": True}
    found = trained(examples, "din", graphs, options=options, compile=True, **settings)
    assert_compiled_once(found)
    assert_trained_alike(found, trained(examples, "din", options=options, **settings))


def test_in_bfloat16(graphs, examples):
    options = {"activation": "relu", "attention_activation": "relu"}
    settings = {"options": options, "dtype": torch.float32}
    found = trained(examples, "din", graphs, compile=True, precision="bfloat16", **settings)
    assert_compiled_once(found)
    in_bfloat16 = trained(examples, "din", precision="bfloat16", **settings)
    assert_trained_alike(found, in_bfloat16, rtol=1e-5, atol=1e-7)
    in_float32 = trained(examples, "din", precision="float32", **settings)
    with pytest.raises(AssertionError):
        assert_trained_alike(found, in_float32, rtol=1e-5, atol=1e-7)


def test_batches_that_have_none_of_something_or_one(graphs, made, examples):
    """Each kind is compiled once; one candidate in each request is no kind of its own."""
    schema = examples.schema
    batches = {
        "usual": range(60),
        "no steps": range(1, 60, 5),
        "a candidate each": range(1, 60, 3),
        "one candidate": [5],
    }
    examples = made.examples(
        schema, candidates=[3, 1, 2] * 20, steps=([2, 0, 5, 0, 1] + [2, 0, 5, 7, 3] * 11)
    )
    examples.labels[:] = [each.double() for each in examples.labels]
    placed, losses, counts = Resident(examples, examples, CPU), [], []
    for wanted in (True, False):
        model, trainer = model_of(schema, "din", activation="relu").train(), trainer_of(schema)
        optimizers, compiler = (
            Optimizers(model, trainer.weighting, trainer.settings),
            Compiler(model, wanted=wanted),
        )
        with optimizers.sparse_tables(), compiler.in_use():
            for requests in [*batches.values(), *batches.values()]:
                batch = placed.batch(torch.tensor(requests))
                losses.append(trainer._step(model, optimizers, None, batch))
                counts.append(len(graphs))
        assert (compiler.compiles, compiler.warning) == (wanted, "")
    torch.testing.assert_close(losses[:8], losses[8:], rtol=1e-9, atol=1e-11)
    found = dict(zip(batches, counts, strict=False))
    assert found["a candidate each"] == found["no steps"]
    assert set(counts[4:8]) == {found["one candidate"]}


def test_a_model_of_many_widths(graphs):
    """One function's code in more variants than torch keeps unless told to."""
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(width, 1) for width in range(2, 14))
    compiler = Compiler(model, wanted=True)
    with compiler.in_use():
        for layer in model.layers:
            layer(torch.ones(3, layer.in_features))
    assert (len(graphs), compiler.warning) == (12, "")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_all_but_the_lookup_is_compiled(schema, name):
    model = model_of(schema, name)
    blocks = list(compiling._blocks(model))
    lookups = [each for each in model.modules() if isinstance(each, Inputs)]
    parts = [set(each.modules()) for each in (*blocks, *lookups)]
    assert sum(map(len, parts)) == len(set().union(*parts))  # they don't overlap
    weights = [p for each in (*blocks, *lookups) for p in each.parameters()]
    assert set(weights) == set(model.parameters())


def test_scores_are_computed_uncompiled(graphs, examples):
    model, trainer = model_of(examples.schema), trainer_of(examples.schema, compile=True)
    trainer.fit(model, Resident(examples, examples, CPU), examples)
    count = len(graphs)
    model.train()(examples.batch(torch.arange(30)))
    assert len(graphs) == count > 0
    compiler = Compiler(model, wanted=True)
    with pytest.raises(KeyError), compiler.in_use():
        raise KeyError
    assert not any("forward" in vars(each) for each in model.modules())


def raises(graph, inputs):
    raise RuntimeError("no compiler\nhere\n\nTry this.")


FAILING = {
    "forward": (raises, "MeanPooling .*: BackendCompilerFailed: .*RuntimeError: no compiler here$"),
    "backward": (
        aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=raises),
        "MeanPooling .*RuntimeError: no compiler here$",
    ),
    "not there": ("nobody", "MeanPooling .*InvalidBackend"),
}


@pytest.mark.parametrize("failing", FAILING)
def test_goes_on_uncompiled_where_the_compiler_fails(unreadable, monkeypatch, examples, failing):
    backend, reason = FAILING[failing]
    monkeypatch.setattr(compiling, "_BACKEND", backend)
    found = trained(examples, compile=True)
    assert not found.fit.compiled
    (warning,) = found.fit.warnings
    assert warning.startswith("training.compile: MeanPooling could not be compiled, so that ")
    assert re.search(reason, warning)
    assert_trained_alike(found, trained(examples), rtol=0, atol=0)


def test_goes_on_uncompiled_where_a_block_asks_the_device(graphs, monkeypatch, examples):
    """What comes before it was compiled, and is no longer used."""
    forward_split = MLP.forward_split

    def asking(self, request, candidate, request_of_candidate):
        scale = 1.0 if candidate.sum().item() != 0 else 2.0
        return scale * forward_split(self, request, candidate, request_of_candidate)

    monkeypatch.setattr(MLP, "forward_split", asking)
    found = trained(examples, graphs=graphs, compile=True)
    assert (found.fit.compiled, set(found.counts)) == (False, {1})
    assert "Deep could not be compiled" in found.fit.warnings[0]
    assert_trained_alike(found, trained(examples))


def test_another_error_is_the_models_own(graphs, monkeypatch, examples):
    monkeypatch.setattr(Deep, "forward", lambda self, *given: given[0].view(-1, 1, 7))
    with pytest.raises(RuntimeError, match="shape"):
        trained(examples, compile=True)


def test_a_cpu_says_that_it_is_none_for_it(monkeypatch, examples):
    monkeypatch.setattr(compiling, "_BACKEND", raises)
    found = trained(examples, compile=True)
    assert not found.fit.compiled
    assert found.fit.warnings == ["training.compile is for GPUs: on a CPU nothing was compiled"]


def test_nothing_is_compiled_unless_asked_for(unreadable, monkeypatch, examples):
    monkeypatch.setattr(compiling, "_BACKEND", raises)
    fit = trained(examples).fit
    assert (fit.compiled, fit.warnings) == (False, [])


@needs_cuda
@pytest.mark.parametrize("name", sorted(MODELS))
def test_steps_compiled_on_a_gpu(examples, name):
    """As uncompiled, by what torch compiles for it, and the driver refuses to be waited for."""
    placed = Resident(examples, examples.map(lambda each: each.to(CUDA)), CUDA)
    losses = []
    for wanted in (True, False):
        model = model_of(examples.schema, name).to(CUDA).train()
        trainer = trainer_of(examples.schema, device="cuda", precision="float32")
        optimizers, found = Optimizers(model, trainer.weighting, trainer.settings), []
        compiler = Compiler(model, wanted=wanted)
        with optimizers.sparse_tables(), compiler.in_use():
            for batch in Loader(placed, batch_size=16):
                torch.cuda.set_sync_debug_mode("error" if len(found) >= 2 else "default")
                try:
                    found.append(trainer._step(model, optimizers, None, batch))
                finally:
                    torch.cuda.set_sync_debug_mode("default")
        assert (compiler.compiles, compiler.warning) == (wanted, "")
        losses.append(torch.stack(found).cpu())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-11)
