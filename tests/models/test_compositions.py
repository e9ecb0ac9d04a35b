"""What every model must keep with every pooling, every head and every other choice of its own."""

from copy import deepcopy
from itertools import combinations, product
from typing import Literal, get_args, get_origin

import pytest
import torch

from finerank.data.schema import History, Schema
from finerank.errors import FinerankError
from finerank.models.heads import HeadName
from finerank.models.poolings import PoolingName
from finerank.models.registry import MODELS, build, options_of
from finerank.nn.pooling import MeanPooling, SumPooling
from finerank.nn.target_attention import TargetAttention
from finerank.settings import ModelSettings

CANDIDATES = (3, 1, 2)
STEPS = (4, 0, 2)  # the second request has no history, the third one step in the other history
BY_HISTORY = {"clicked": "target_attention", "*": "mean"}


def choices_of(model):
    """The options that choose what a model is made of, each with all that it may be."""
    choices = {}
    for name, option in options_of(model).model_fields.items():
        if name == "pooling":
            choices[name] = get_args(PoolingName)
        elif name == "head":
            choices[name] = get_args(HeadName)
        elif option.annotation is bool:
            choices[name] = (False, True)
        elif get_origin(option.annotation) is Literal and not name.endswith("activation"):
            choices[name] = get_args(option.annotation)
    return choices


CHOICES = {model: choices_of(model) for model in MODELS}
POOLED = [model for model in MODELS if "pooling" in CHOICES[model]]
COMPOSITIONS = {
    "-".join(map(str, (model, *chosen))): (model, dict(zip(choices, chosen, strict=True)))
    for model, choices in CHOICES.items()
    for chosen in product(*choices.values())
}
COMPOSITIONS |= {f"{model}-by_history": (model, {"pooling": BY_HISTORY}) for model in POOLED}


@pytest.fixture(scope="module")
def schema(made):
    return Schema(
        made.features("user:id:user", "context:number:hour", "item:id:item", "history:id:event"),
        (
            History("clicked", ("event", "item"), max_length=9),
            History("carted", ("item",), max_length=9),
        ),
        ("click", "order"),
    )


@pytest.fixture(scope="module")
def examples(made, schema):
    return made.examples(schema, candidates=CANDIDATES, steps=STEPS)


@pytest.fixture(scope="module")
def few(made, schema):
    """One candidate with no history or with one step, and several with no history."""
    shapes = (([1], [0]), ([1], [1]), (CANDIDATES, [0] * 3))
    return [made.examples(schema, candidates=each, steps=steps) for each, steps in shapes]


@pytest.fixture(scope="module", params=COMPOSITIONS)
def built(request, small, schema):
    """A model of one composition; built once, for that takes longer than a check."""
    model, options = COMPOSITIONS[request.param]
    return small(model, schema, **options)


@pytest.fixture
def fresh(built, randomized):
    """Gives copies of the model, each with weights of its own."""
    return lambda: randomized(deepcopy(built))


def test_gives_one_logit_a_candidate_and_task(check, fresh, examples):
    check.one_logit_a_candidate_and_task(fresh(), examples)


def test_gradients(check, fresh, examples):
    model = fresh()
    for training in (True, False):
        check.gradients(model.train(training), examples)


def test_every_parameter_gets_a_gradient(check, fresh, examples):
    check.every_parameter_gets_a_gradient(fresh, examples)


def test_takes_one_candidate_and_no_history(check, fresh, few):
    model = fresh()
    for examples in few:
        check.all_is_finite(model, examples)


def test_a_score_does_not_depend_on_the_batch(check, fresh, examples):
    check.a_score_does_not_depend_on_the_batch(fresh(), examples)


def test_weights_survive_a_file(check, fresh, examples):
    check.weights_survive_a_file(fresh, examples)


@pytest.mark.parametrize("model", MODELS)
def test_every_choice_changes_the_scores(model, small, made, examples):
    """A model that forgets to pass an option on scores as it does without."""

    def scores(**options):
        torch.manual_seed(0)
        return small(model, examples.schema, **options)(made.batch(examples))

    first = {option: names[0] for option, names in CHOICES[model].items()}
    chosen = [first] + [
        first | {option: name} for option, names in CHOICES[model].items() for name in names[1:]
    ]
    found = [(options, scores(**options)) for options in chosen]
    for (one, its_scores), (other, other_scores) in combinations(found, 2):
        assert not torch.allclose(its_scores, other_scores), f"{one} scores as {other}"


@pytest.mark.parametrize("model", POOLED)
def test_each_history_has_the_pooling_that_is_named_for_it(model, small, schema):
    for pooling in (
        {"clicked": "target_attention", "*": "mean"},
        {"*": "mean", "clicked": "target_attention"},
        {"*": "target_attention", "carted": "mean"},
        {"clicked": "target_attention", "carted": "mean"},
    ):
        blocks = small(model, schema, pooling=pooling).pooling
        assert isinstance(blocks["of_clicked"], TargetAttention)
        assert isinstance(blocks["of_carted"], MeanPooling)
    sums = small(model, schema, pooling={"*": "sum"}).pooling.values()
    assert [type(block) for block in sums] == [SumPooling, SumPooling]


@pytest.mark.parametrize(
    ("pooling", "unknown"),
    [({"clicked": "mean"}, "carted"), ({"viewed": "mean", "*": "sum"}, "viewed")],
)
def test_poolings_by_history_name_each_history_and_no_other(schema, pooling, unknown):
    with pytest.raises(FinerankError, match=rf"'carted', 'clicked'.*: \['{unknown}'\]"):
        build(schema, ModelSettings(name="dnn", pooling=pooling))


@pytest.mark.parametrize(
    ("option", "name"),
    [(option, name) for option in ("pooling", "head") for name in CHOICES["dnn"][option]],
)
def test_a_name_is_short_for_all_defaults(option, name, schema, made, examples):
    """In a recipe, and for who builds the model in Python."""
    made_by = (
        lambda: build(schema, ModelSettings(name="dnn", **{option: {"kind": name}})),
        lambda: build(schema, ModelSettings(name="dnn", **{option: name})),
        lambda: MODELS["dnn"](schema, **{option: name}),
    )
    found = []
    for make in made_by:
        torch.manual_seed(0)
        found.append(make()(made.batch(examples)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
