"""Training in the form that a device gets: the same numbers, and no operation that waits.

The form is taken on the CPU here, with its tensors declared unreadable. Where torch sees a GPU, the
last tests run on it.
"""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from finerank.data.examples import Examples
from finerank.data.loader import Loader
from finerank.data.placement import Copied, Placement, Resident
from finerank.data.schema import Schema
from finerank.errors import FinerankError
from finerank.evaluation.evaluator import score
from finerank.models.registry import build
from finerank.nn import host, products
from finerank.nn.joined import whole
from finerank.settings import ModelSettings, TrainingSettings
from finerank.training import device as module
from finerank.training import trainer as trainer_module
from finerank.training.device import device_name, find_device, find_precision
from finerank.training.id_dropout import IdDropout
from finerank.training.loss import task_losses
from finerank.training.optimizers import Optimizers
from finerank.training.regularization import MiniBatchL2
from finerank.training.trainer import Trainer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MODELS = ["dnn", "din", "deepfm", "wide_deep", "dcn", "mmoe", "ple"]
SCHEMAS = ["flat", "numbers only", "one history", "steps of their own", "every type"]

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


class WaitingError(AssertionError):
    """An operation whose result has to be read before the next can be told."""


class NothingWaits(TorchDispatchMode):
    """Refuses what would make the host wait for a device, or copy to it from ordinary memory."""

    refused = frozenset(
        {
            "_local_scalar_dense",  # item, bool, int, float, tolist
            "nonzero",
            "nonzero_numpy",
            "masked_select",
            "_unique",
            "_unique2",
            "unique_dim",
            "unique_consecutive",
            "unique_dim_consecutive",
            "bincount",
            "equal",
            "is_nonzero",
            "lift_fresh",  # torch.tensor of numbers of the host
        }
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        unsized = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        masks = name.startswith("index") and any(
            each is not None and each.dtype == torch.bool
            for indices in args
            if isinstance(indices, list | tuple)
            for each in indices
            if isinstance(each, torch.Tensor)
        )
        if name in self.refused or unsized or masks:
            raise WaitingError(str(func))
        return func(*args, **(kwargs or {}))


class InAnyOrder(TorchDispatchMode):
    """Writes to rows that are named more than once in random order, as a device may."""

    def __init__(self):
        super().__init__()
        self.random = torch.Generator().manual_seed(0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in {torch.ops.aten.index_copy_, torch.ops.aten.scatter_}:
            table, dim, rows, values = args
            order = torch.randperm(len(rows), generator=self.random)
            args = table, dim, rows[order], values[order]
        return func(*args, **(kwargs or {}))


@pytest.fixture
def unreadable(monkeypatch):
    monkeypatch.setattr(host, "is_readable", lambda tensor: False)


def as_if_resident(examples: Examples) -> Resident:
    return Resident(examples, examples, CPU)


def examples_of(made, name):
    return made.examples(made.schemas[name], candidates=[3, 1, 2] * 20, steps=[2, 0, 5] * 20)


def model_of(schema, name="din", **options):
    torch.manual_seed(0)
    units = {"hidden_units": [6]} if name not in ("mmoe", "ple") else {"expert_units": [6]}
    options = {"embedding_dim": 4} | units | options
    return build(schema, ModelSettings(name=name, **options))


def trainer_of(schema, **settings):
    settings = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, "device": "cpu"} | settings
    return Trainer(TrainingSettings(**settings), task_weights=dict.fromkeys(schema.tasks, 1.0))


def trained(examples, name, **settings):
    """The losses and weights in float64, and scores."""
    model = model_of(examples.schema, name).double()
    trainer = trainer_of(examples.schema, metric="log_loss_nats", **settings)
    trainer.weighting.double()
    fit = trainer.fit(model, examples, HOST_EXAMPLES[id(examples)])
    losses = [epoch["train_loss_nats"] for epoch in fit.epochs]
    return losses, model.state_dict(), score(model, examples)


HOST_EXAMPLES: dict[int, Examples] = {}


def assert_trained_alike(examples, monkeypatch, name, **settings):
    placed = as_if_resident(examples)
    HOST_EXAMPLES.update({id(examples): examples, id(placed): examples})
    expected_losses, expected_weights, expected_scores = trained(examples, name, **settings)
    monkeypatch.setattr(host, "is_readable", lambda tensor: False)
    with InAnyOrder():
        losses, weights, scores = trained(placed, name, **settings)
    assert losses == expected_losses
    for key, value in expected_weights.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-9, atol=1e-11, msg=key)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_trains_as_on_the_cpu(made, monkeypatch, schema):
    """Many batches, in which ids are absent, alone and repeated."""
    assert_trained_alike(examples_of(made, schema), monkeypatch, "din")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_as_on_the_cpu(made, monkeypatch, name):
    assert_trained_alike(examples_of(made, "every type"), monkeypatch, name)


@pytest.mark.parametrize(
    "settings",
    [
        {"embedding_optimizer": "rowwise_adagrad"},
        {"embedding_optimizer": "adam", "embedding_weight_decay": 0.1},
        {"embedding_l2": 0.5},
        {"embedding_l2": 0.5, "embedding_optimizer": "rowwise_adagrad"},
        {"id_dropout": 0.3, "task_weights": "uncertainty"},
    ],
    ids=str,
)
def test_every_setting_trains_as_on_the_cpu(made, monkeypatch, settings):
    assert_trained_alike(examples_of(made, "every type"), monkeypatch, "din", **settings)


SETTINGS = [
    {},
    {"embedding_optimizer": "rowwise_adagrad", "embedding_l2": 0.5},
    {"embedding_optimizer": "adam", "id_dropout": 0.3, "task_weights": "uncertainty"},
    {"precision": "bfloat16"},
]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_step_waits_for_nothing(made, unreadable, monkeypatch, name, settings):
    """From the requests of a batch, which are the host's, to the updated weights."""
    examples = examples_of(made, "every type")
    model, trainer = (
        model_of(examples.schema, name).train(),
        trainer_of(examples.schema, **settings),
    )
    optimizers, l2 = Optimizers(model, trainer.weighting, trainer.settings), None
    if trainer.settings.embedding_l2:
        l2 = MiniBatchL2(model, examples, strength=0.5)
    drop = IdDropout(examples.schema, 0.3, seed=0) if trainer.settings.id_dropout else None
    placed, total = as_if_resident(examples), torch.zeros(len(examples.schema.tasks))
    with optimizers.sparse_tables():
        for requests in torch.arange(60).split(20):
            known = {n: int(each[requests].sum()) for n, each in placed.sizes_of_requests.items()}
            with NothingWaits():
                batch = placed._on_device.batch(requests, known)
                total += trainer._step(
                    model, optimizers, l2, batch if drop is None else drop(batch)
                )
    assert total.isfinite().all()


@pytest.mark.parametrize("optimizer", ["lazy_adam", "rowwise_adagrad", "adam"])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_reads_nothing(made, monkeypatch, name, optimizer):
    """On a device that holds no numbers: whatever reads one fails, `tolist` among them.

    Autocast doesn't know the device; it is not what is in doubt.
    """
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    examples, meta = examples_of(made, "every type"), torch.device("meta")
    model = model_of(examples.schema, name).to(meta).train()
    trainer = trainer_of(examples.schema, embedding_optimizer=optimizer, embedding_l2=0.5)
    trainer.weighting.to(meta)
    optimizers = Optimizers(model, trainer.weighting, trainer.settings)
    l2 = MiniBatchL2(model, examples, strength=0.5)
    with optimizers.sparse_tables():
        for batch in Loader(Placement(meta, room=2**30).place(examples), batch_size=30):
            assert trainer._step(model, optimizers, l2, batch).device == meta
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            batch.user.tolist()


@pytest.mark.parametrize("name", MODELS)
def test_scoring_waits_for_nothing(made, unreadable, name):
    examples = examples_of(made, "every type")
    model, placed = model_of(examples.schema, name).eval(), as_if_resident(examples)
    known = {n: int(each.sum()) for n, each in placed.sizes_of_requests.items()}
    with NothingWaits(), torch.inference_mode():
        model(placed._on_device.batch(torch.arange(60), known))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.repeat_interleave(x),
        lambda x: x.masked_select(x > 1),
        lambda x: torch.tensor([1, 2]),
    ],
)
def test_what_waits_is_refused(wait):
    x = torch.tensor([1, 2, 2])
    with NothingWaits(), pytest.raises(WaitingError):
        wait(x)
    x.repeat_interleave(x, output_size=5)


def test_the_cpu_form_would_wait(made):
    """Or the test above could not fail."""
    examples = examples_of(made, "one history")
    model, trainer = model_of(examples.schema).train(), trainer_of(examples.schema)
    optimizers = Optimizers(model, trainer.weighting, trainer.settings)
    with optimizers.sparse_tables(), NothingWaits(), pytest.raises(WaitingError):
        trainer._step(model, optimizers, None, examples.batch(torch.arange(20)))


def test_the_loss_is_read_for_the_progress_twice_a_second(made, monkeypatch):
    times = iter([0.0, 0.1, 0.4, 0.6, 0.7, 1.0, 1.2, 9.0])
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: next(times))
    read = []
    monkeypatch.setattr(
        Trainer, "_remark", lambda self, total, batches: read.append(batches) or f"{batches}"
    )
    examples = examples_of(made, "one history")
    fit = trainer_of(examples.schema, epochs=1, batch_size=15)
    fit.fit(model_of(examples.schema), examples, examples)
    assert read == [1, 4, 7, 8]


def see(monkeypatch, count, capability=(9, 0)):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


@pytest.mark.parametrize(
    ("count", "setting", "expected"),
    [(0, "auto", "cpu"), (1, "auto", "cuda"), (2, "cpu", "cpu"), (2, "cuda:1", "cuda:1")],
)
def test_the_device_that_a_setting_means(monkeypatch, count, setting, expected):
    see(monkeypatch, count)
    monkeypatch.setattr(module, "_default", MEANT["_default"])
    assert find_device(setting) == torch.device(expected)
    assert device_name(torch.device("cpu")) == "cpu"


MEANT = {name: getattr(module, name) for name in ("_default", "_computes_bfloat16")}


@pytest.mark.parametrize(("count", "setting"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")])
def test_a_device_that_is_not_there(monkeypatch, schema, count, setting):
    see(monkeypatch, count)
    seen = "cuda:0, cuda:1" if count else "only the CPU"
    with pytest.raises(FinerankError, match=f"training.device: .*sees: {seen}, found {setting}"):
        trainer_of(schema, device=setting)


@pytest.fixture
def schema(made):
    return made.schemas["one history"]


@pytest.mark.parametrize(
    ("device", "flags", "capability", "setting", "expected"),
    [
        ("cpu", "avx2 avx512_bf16", None, "auto", "bfloat16"),
        ("cpu", "amx_bf16", None, "auto", "bfloat16"),
        ("cpu", "avx2 avx512f", None, "auto", "float32"),
        ("cpu", "avx2", None, "bfloat16", "bfloat16"),
        ("cpu", "amx_bf16", None, "float32", "float32"),
        ("cuda", "", (9, 0), "auto", "bfloat16"),
        ("cuda", "", (7, 5), "auto", "float32"),
        ("cuda", "", (9, 0), "float32", "float32"),
    ],
)
def test_the_precision_that_a_setting_means(
    monkeypatch, device, flags, capability, setting, expected
):
    see(monkeypatch, 1, capability)
    monkeypatch.setattr(module, "_computes_bfloat16", MEANT["_computes_bfloat16"])
    monkeypatch.setattr(module, "_cpu_flags", lambda: set(flags.split()))
    assert find_precision(setting, torch.device(device)) == getattr(torch, expected)


@pytest.fixture
def _all_pay(monkeypatch):
    """Narrow products are short, too."""
    monkeypatch.setattr(products, "_WORTH", 0)


@pytest.mark.usefixtures("_all_pay")
@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_for_products_only(made, name):
    """Weights, statistics, optimisers' states, losses and scores are float32; products are not."""
    examples = examples_of(made, "every type")
    losses, types = {}, set()
    for precision in ("float32", "bfloat16"):
        model = model_of(examples.schema, name)
        linear = next(each for each in model.modules() if isinstance(each, torch.nn.Linear))
        trainer = trainer_of(examples.schema, precision=precision, metric="log_loss_nats")
        batch = examples.batch(torch.arange(60))
        optimizers = Optimizers(model.train(), trainer.weighting, trainer.settings)
        with optimizers.sparse_tables():
            with torch.autocast("cpu", trainer.precision, enabled=precision == "bfloat16"):
                types.add(linear(torch.zeros(1, linear.in_features)).dtype)
                vectors, logits = model.inputs(batch), model(batch)
            losses[precision] = trainer._step(model, optimizers, None, batch)
        assert whole(vectors.request).dtype == whole(vectors.candidate).dtype == torch.float32
        assert torch.equal(losses[precision], task_losses(logits.float(), batch.labels))
        floats = [each for each in model.state_dict().values() if each.is_floating_point()]
        adams = [state for adam in optimizers._adams for state in adam._state.values()]
        states = [each for state in adams for each in state]
        assert {each.dtype for each in [*floats, *states]} == {torch.float32}
        assert score(model, examples).dtype == np.float32
    assert types == {torch.float32, torch.bfloat16}
    assert not torch.equal(losses["float32"], losses["bfloat16"])
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], rtol=0.02, atol=0)


def test_a_projected_vector_is_float32(made):
    schema = Schema(made.features("item:vector:look"), (), ("click",))
    examples = made.examples(schema, candidates=[3, 1], steps=[0, 0])
    with torch.autocast("cpu", torch.bfloat16):
        vectors = model_of(schema, "dnn").inputs(examples.batch(torch.arange(2)))
    assert whole(vectors.candidate).dtype == torch.float32


@pytest.mark.usefixtures("_all_pay")
def test_statistics_of_bfloat16_are_float32(made):
    """Dice's running mean is that of the products, summed in float32."""
    examples = examples_of(made, "one history")
    model = model_of(examples.schema, "dnn", activation="dice").train()
    dice = model.interaction.mlp.finishes[0][0]
    seen = []
    dice.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    with torch.autocast("cpu", torch.bfloat16):
        model(examples.batch(torch.arange(60)))
    assert seen[0].dtype == torch.bfloat16
    expected = 0.1 * seen[0].double().mean(dim=0)
    torch.testing.assert_close(
        dice.normalization.running_mean.double(), expected, rtol=1e-5, atol=1e-7
    )


def test_learns_in_bfloat16(made, schema):
    """Whether the candidate's id is odd."""
    examples = made.examples(schema, candidates=[4] * 60, steps=[3] * 60)
    examples.labels[0] = (examples.candidate["item"] % 2).float()
    settings = {"epochs": 15, "learning_rate": 0.05, "patience": 15, "metric": "log_loss_nats"}
    trainer = trainer_of(schema, precision="bfloat16", **settings)
    fit = trainer.fit(model_of(schema), examples, examples)
    assert (fit.precision, fit.resident) == ("bfloat16", True)
    assert fit.valid["click"]["auc"] == 1.0
    assert fit.valid["click"]["log_loss_nats"] < 0.05


@needs_cuda
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", [Resident, Copied])
def test_steps_on_a_gpu(made, name, kind):
    """As on the CPU, and the driver refuses to be waited for."""
    examples = examples_of(made, "every type")
    losses = []
    for device in ("cpu", "cuda"):
        model = model_of(examples.schema, name)
        trainer = trainer_of(examples.schema, device=device, precision="float32")
        placed = examples
        if device == "cuda" and kind is Resident:
            placed = Resident(examples, examples.map(lambda each: each.to(CUDA)), CUDA)
        elif device == "cuda":
            placed = Copied(examples, CUDA)
        optimizers = Optimizers(model.to(device).train(), trainer.weighting, trainer.settings)
        found = []
        with optimizers.sparse_tables():
            for batch in Loader(placed, batch_size=16):
                torch.cuda.set_sync_debug_mode("error" if found else "default")
                try:
                    found.append(trainer._step(model, optimizers, None, batch))
                finally:
                    torch.cuda.set_sync_debug_mode("default")
        losses.append(torch.stack(found).cpu())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-4)


@needs_cuda
def test_trains_on_a_gpu(made, schema):
    examples = made.examples(schema, candidates=[3] * 40, steps=[2] * 40)
    fit = trainer_of(schema, device="cuda").fit(model_of(schema), examples, examples)
    assert fit.resident
    assert fit.epochs[-1]["valid"]["click"]["log_loss_nats"] < 1
