"""What every model of the registry must keep, over schemas that differ in what they have."""

import pytest
import torch

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


def test_gives_one_logit_a_candidate_and_task(check, name, small, schema, examples):
    check.one_logit_a_candidate_and_task(small(name, schema), examples)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("schema_name", ["flat", "one history", "every type"])
def test_gradients(check, name, small, made, schema_name, training):
    schema = made.schemas[schema_name]
    examples = made.examples(schema, candidates=(3, 1, 2), steps=(2, 0, 3))
    check.gradients(small(name, schema).train(training), examples)


def test_every_parameter_gets_a_gradient(check, name, small, schema, examples):
    check.every_parameter_gets_a_gradient(lambda: small(name, schema), examples)


@pytest.mark.parametrize(
    ("candidates", "steps"), [([1], [0]), ([1], [1]), ([1], [4]), (CANDIDATES, [0] * 5)]
)
def test_takes_one_candidate_and_no_history(check, name, small, made, schema, candidates, steps):
    examples = made.examples(schema, candidates=candidates, steps=steps)
    check.all_is_finite(small(name, schema), examples)


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_score_does_not_depend_on_the_batch(check, name, small, schema, examples, dtype, share):
    model = small(name, schema)
    check.a_score_does_not_depend_on_the_batch(model, examples, dtype=dtype, share=share)


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
    examples.candidate["category"][:] = 2
    examples.candidate["price"][:] = torch.tensor([0.0, torch.nan])
    logits = small(name, schema).eval()(made.batch(examples))
    assert (logits[0] - logits[1]).abs().item() > 1e-5


def test_weights_survive_a_file(check, name, small, schema, examples):
    check.weights_survive_a_file(lambda: small(name, schema), examples)


def test_the_same_seed_starts_from_the_same_weights(name, small, made):
    schema = made.schemas["every type"]
    torch.manual_seed(3)
    one = small(name, schema).state_dict()
    torch.manual_seed(3)
    other = small(name, schema).state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


EMBEDDINGS = {
    "log_odds_shift": (1,),
    "inputs.tables.of_user": (5, 2),
    "inputs.tables.of_item": (5, 2),
}
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
