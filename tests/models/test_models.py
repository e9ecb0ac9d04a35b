"""What every model of the registry must keep, over schemas that differ in what they have.

Shapes: ``B`` candidates, ``T`` tasks.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load, save

from finerank.data.batch import take
from finerank.data.loader import Loader

SCHEMAS = (
    "flat",
    "items only",
    "users only",
    "numbers only",
    "one history",
    "history without user features",
    "steps of their own",
    "every type",
)
CANDIDATES = (3, 1, 2, 4, 1)
STEPS = (2, 0, 5, 1, 3)  # the second request has no history


@pytest.fixture(params=SCHEMAS)
def schema(request, made):
    return made.schemas[request.param]


@pytest.fixture
def examples(made, schema):
    return made.examples(schema, candidates=CANDIDATES, steps=STEPS)


def one_candidate_each(examples):
    """The same candidates, each in a request of its own."""
    request = torch.arange(examples.num_requests).repeat_interleave(examples.first_candidate.diff())
    return replace(
        examples,
        user=examples.user[request],
        request={name: take(column, request) for name, column in examples.request.items()},
        windows={h: (start[request], end[request]) for h, (start, end) in examples.windows.items()},
        first_candidate=torch.arange(examples.num_candidates + 1),
    )


def candidates_reversed(examples):
    """The same requests, the candidates of each in reverse."""
    first = examples.first_candidate.tolist()
    bounds = pairwise(first)
    order = torch.cat([torch.arange(end - 1, start - 1, -1) for start, end in bounds])
    candidate = {name: take(column, order) for name, column in examples.candidate.items()}
    return replace(examples, candidate=candidate), order


def test_gives_one_logit_a_candidate_and_task(name, small, made, schema, examples):
    for dtype in (torch.float32, torch.float64):
        logits = small(name, schema).to(dtype)(made.batch(examples))
        assert logits.shape == (sum(CANDIDATES), len(schema.tasks))
        assert logits.dtype == dtype
        assert logits.isfinite().all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("schema_name", ["flat", "one history", "every type"])
def test_gradients(name, small, made, schema_name, training):
    schema = made.schemas[schema_name]
    batch = made.batch(made.examples(schema, candidates=(3, 1, 2), steps=(2, 0, 3)))
    model = small(name, schema).double().train(training)
    assert torch.autograd.gradcheck(
        lambda *_: model(batch), tuple(model.parameters()), fast_mode=True
    )


def test_every_parameter_gets_a_gradient(name, small, made, schema, examples):
    model = small(name, schema).double()
    weights = torch.randn(sum(CANDIDATES), len(schema.tasks), dtype=torch.float64)
    (model(made.batch(examples)) * weights).sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.numel() == 0:  # a head above nothing
            continue
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 1e-6, key


@pytest.mark.parametrize(
    ("candidates", "steps"), [([1], [0]), ([1], [1]), ([1], [4]), (CANDIDATES, [0] * 5)]
)
def test_takes_one_candidate_and_no_history(name, small, made, schema, candidates, steps):
    batch = made.batch(made.examples(schema, candidates=candidates, steps=steps))
    model = small(name, schema)
    for training in (True, False):
        logits = model.train(training)(batch)
        assert logits.shape == (sum(candidates), len(schema.tasks))
        logits.sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(each.isfinite().all() for each in (logits, *gradients, *model.buffers()))


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_score_does_not_depend_on_the_batch(name, small, made, schema, examples, dtype, share):
    """Alone or in any batch, in any order, in a request of many candidates or of one."""
    model = small(name, schema).to(dtype).eval()
    expected = model(made.batch(examples))
    atol = share * max(1.0, expected.abs().max().item())

    def check(logits):
        torch.testing.assert_close(logits, expected, rtol=0, atol=atol)

    single = one_candidate_each(examples)
    check(model(made.batch(single)))
    check(torch.cat([model(batch) for batch in Loader(single, batch_size=1)]))
    check(torch.cat([model(batch) for batch in Loader(examples, batch_size=4)]))
    backwards, order = candidates_reversed(examples)
    check(model(made.batch(backwards))[order])
    shuffled = torch.tensor([3, 0, 4, 2, 1])
    starts = examples.first_candidate
    places = torch.cat([torch.arange(starts[r], starts[r + 1]) for r in shuffled])
    check(model(examples.batch(shuffled))[places.argsort()])


def test_a_candidate_sees_only_the_history_of_its_request(name, small, made):
    """Other events of one user change that user's scores and no others."""
    schema = made.schemas["one history"]
    examples = made.examples(schema, candidates=CANDIDATES, steps=STEPS)
    model = small(name, schema).double().eval()
    before = model(made.batch(examples))
    store = examples.stores["clicked"]
    start, end = (int(bound[2]) for bound in examples.windows["clicked"])
    store.columns["item"][start:end] = (store.columns["item"][start:end] + 1) % 5
    changed = (model(made.batch(examples)) - before).abs().squeeze(1) > 1e-9
    request = torch.arange(5).repeat_interleave(torch.tensor(CANDIDATES))
    assert changed.tolist() == (request == 2).tolist()


def test_a_missing_number_is_not_a_zero(name, small, made):
    schema = made.schemas["items only"]
    examples = made.examples(schema, candidates=[2], steps=[0])
    examples.candidate["item"][:] = 3
    examples.candidate["price"][:] = torch.tensor([0.0, torch.nan])
    logits = small(name, schema).eval()(made.batch(examples))
    assert (logits[0] - logits[1]).abs().item() > 1e-5


def test_weights_survive_a_file(name, small, made, schema, examples):
    model, batch = small(name, schema).eval(), made.batch(examples)
    other = small(name, schema).eval()
    assert not torch.equal(other(batch), model(batch))
    other.load_state_dict(load(save(model.state_dict())))
    assert torch.equal(other(batch), model(batch))


def test_the_same_seed_starts_from_the_same_weights(name, small, made):
    schema = made.schemas["every type"]
    torch.manual_seed(3)
    one = small(name, schema).state_dict()
    torch.manual_seed(3)
    other = small(name, schema).state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


EMBEDDINGS = {"inputs.tables.of_user": (5, 2), "inputs.tables.of_item": (5, 2)}
MLP = {  # user 2, hour 2, history 2, item 2
    "interaction.mlp.linears.0.weight": (4, 8),
    "interaction.mlp.linears.0.bias": (4,),
    "interaction.mlp.linears.1.weight": (3, 4),
    "interaction.mlp.linears.1.bias": (3,),
    "head.weight": (1, 3),
    "head.bias": (1,),
}


def dice(prefix, dim):
    statistics = {"running_mean": (dim,), "running_var": (dim,), "num_batches_tracked": ()}
    return {
        f"{prefix}.alpha": (dim,),
        **{f"{prefix}.normalization.{key}": shape for key, shape in statistics.items()},
    }


STATE = {
    "dnn": EMBEDDINGS | MLP,
    "din": EMBEDDINGS
    | MLP
    | dice("interaction.mlp.finishes.0.0", 4)
    | dice("interaction.mlp.finishes.1.0", 3)
    | {
        "pooling.of_clicked.mlp.linears.0.weight": (4, 6),  # candidate, step, product
        "pooling.of_clicked.mlp.linears.0.bias": (4,),
        "pooling.of_clicked.mlp.linears.1.weight": (3, 4),
        "pooling.of_clicked.mlp.linears.1.bias": (3,),
        "pooling.of_clicked.logit.weight": (1, 3),
        "pooling.of_clicked.logit.bias": (1,),
    }
    | dice("pooling.of_clicked.mlp.finishes.0.0", 4)
    | dice("pooling.of_clicked.mlp.finishes.1.0", 3),
}


@pytest.mark.parametrize("known", sorted(STATE))
def test_saved_weights_keep_their_names_and_shapes(known, small, made):
    """A bundle written today must load tomorrow: a change here needs a new bundle format."""
    state = small(known, made.schemas["one history"]).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == STATE[known]
