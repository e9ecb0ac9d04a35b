"""What the tests of the models share: every model of the registry, small, and what it must keep."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load, save
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector

from finerank.data.batch import take
from finerank.data.examples import Examples
from finerank.data.loader import Loader
from finerank.data.schema import Schema
from finerank.models.heads import Head
from finerank.models.poolings import Pooling
from finerank.models.ranking_model import RankingModel
from finerank.models.registry import MODELS, build, options_of
from finerank.settings import ModelSettings


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=sorted(MODELS))
def name(request) -> str:
    return request.param


PARTS = {
    kind: part
    for part in (*get_args(Head), *get_args(Pooling))
    for kind in get_args(part.__annotations__["kind"])
}


@cache
def defaults_of(name: str) -> dict[str, Any]:
    """A model's options and their defaults; kept, for every test asks."""
    return {key: field.default for key, field in options_of(name).model_fields.items()}


def small_sizes(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Two to four units a layer, none of them dead."""
    sizes: dict[str, Any] = {"embedding_dim": 2, "rank": 2, "num_experts": 3}
    sizes |= {key: [4, 3] for key in defaults if key.endswith("_units")}
    sizes |= {"activation": "silu"} if defaults.get("activation") == "relu" else {}
    return {key: size for key, size in sizes.items() if key in defaults}


def small_part(option: Any) -> Any:
    """A pooling or a head by its name, or poolings by history, in their long forms."""
    if isinstance(option, Mapping):
        return {key: small_part(each) for key, each in option.items()}
    sizes = small_sizes({field.name: field.default for field in fields(PARTS[option])})
    return {"kind": option, **sizes}


@pytest.fixture(scope="session")
def randomized():
    def randomized(model: RankingModel) -> RankingModel:
        """The model with random weights, far from 0, and random running statistics."""
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.5)
            for key, buffer in model.named_buffers():
                if key.endswith("running_mean"):
                    buffer.copy_(torch.randn_like(buffer) * 0.3)
                if key.endswith("running_var"):
                    buffer.copy_(torch.rand_like(buffer) + 0.5)
        return model

    return randomized


@pytest.fixture(scope="session")
def small(randomized):
    def small(name: str, schema: Schema, **options: Any) -> RankingModel:
        """A small model with random weights; its pooling and head are given by name."""
        sizes = small_sizes(defaults_of(name))
        parts = {key: small_part(options.pop(key)) for key in ("pooling", "head") if key in options}
        return randomized(build(schema, ModelSettings(name=name, **sizes | options | parts)))

    return small


def one_candidate_each(examples: Examples) -> Examples:
    """The same candidates, each in a request of its own."""
    request = torch.arange(examples.num_requests).repeat_interleave(examples.first_candidate.diff())
    return replace(
        examples,
        user=examples.user[request],
        request={name: take(column, request) for name, column in examples.request.items()},
        windows={h: (start[request], end[request]) for h, (start, end) in examples.windows.items()},
        first_candidate=torch.arange(examples.num_candidates + 1),
    )


def candidates_reversed(examples: Examples) -> tuple[Examples, torch.Tensor]:
    """The same requests, the candidates of each in reverse."""
    first = examples.first_candidate.tolist()
    bounds = pairwise(first)
    order = torch.cat([torch.arange(end - 1, start - 1, -1) for start, end in bounds])
    candidate = {name: take(column, order) for name, column in examples.candidate.items()}
    return replace(examples, candidate=candidate), order


class Conformance:
    """What a model must keep, whatever it is made of and whatever it reads."""

    def __init__(self, made) -> None:
        self.made = made

    def one_logit_a_candidate_and_task(self, model: RankingModel, examples: Examples) -> None:
        for dtype in (torch.float32, torch.float64):
            logits = model.to(dtype)(self.made.batch(examples))
            assert logits.shape == (examples.num_candidates, len(examples.schema.tasks))
            assert logits.dtype == dtype
            assert logits.isfinite().all()

    def gradients(self, model: RankingModel, examples: Examples) -> None:
        """A step in all parameters at once changes the logits as their gradients say."""
        model, batch = model.double(), self.made.batch(examples)
        names, values = zip(*model.named_parameters(), strict=True)
        sizes = [value.numel() for value in values]

        def logits(flat: torch.Tensor) -> torch.Tensor:
            parts = zip(values, flat.split(sizes), strict=True)
            parameters = [part.view_as(value) for value, part in parts]
            return functional_call(model, dict(zip(names, parameters, strict=True)), (batch,))

        flat = parameters_to_vector(values).detach().requires_grad_()
        assert torch.autograd.gradcheck(
            logits, flat, atol=1e-8, rtol=1e-6, fast_mode=True, check_undefined_grad=False
        )

    def every_parameter_gets_a_gradient(
        self, fresh: Callable[[], RankingModel], examples: Examples
    ) -> None:
        """At least with one of a few draws of the weights: with another a ReLU may be dead."""
        batch, reached = self.made.batch(examples), set()
        for _ in range(5):
            model = fresh().double()
            logits = model(batch)
            (logits * torch.randn_like(logits)).sum().backward()
            parameters = {k: p for k, p in model.named_parameters() if p.numel() > 0}
            gradients = {k: p.grad for k, p in parameters.items() if p.grad is not None}
            reached |= {k for k, gradient in gradients.items() if gradient.abs().max() > 1e-9}
            if reached == parameters.keys():
                return
        pytest.fail(f"no gradient reaches {sorted(parameters.keys() - reached)}")

    def all_is_finite(self, model: RankingModel, examples: Examples) -> None:
        """Logits, gradients and running statistics, in training and after."""
        batch = self.made.batch(examples)
        for training in (True, False):
            logits = model.train(training)(batch)
            assert logits.shape == (examples.num_candidates, len(examples.schema.tasks))
            logits.sum().backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            assert all(each.isfinite().all() for each in (logits, *gradients, *model.buffers()))

    def a_score_does_not_depend_on_the_batch(
        self, model: RankingModel, examples: Examples, *, dtype=torch.float64, share=1e-12
    ) -> None:
        """Alone or in any batch, in any order, in a request of many candidates or of one."""
        model = model.to(dtype).eval()
        expected = model(self.made.batch(examples))
        atol = share * max(1.0, expected.abs().max().item())

        def check(logits: torch.Tensor) -> None:
            torch.testing.assert_close(logits, expected, rtol=0, atol=atol)

        single = one_candidate_each(examples)
        check(model(self.made.batch(single)))
        check(torch.cat([model(batch) for batch in Loader(single, batch_size=1)]))
        check(torch.cat([model(batch) for batch in Loader(examples, batch_size=4)]))
        backwards, order = candidates_reversed(examples)
        check(model(self.made.batch(backwards))[order])
        shuffled = torch.arange(examples.num_requests).roll(2).flip(0)
        starts = examples.first_candidate
        places = torch.cat([torch.arange(starts[r], starts[r + 1]) for r in shuffled])
        check(model(examples.batch(shuffled))[places.argsort()])

    def weights_survive_a_file(self, fresh: Callable[[], RankingModel], examples: Examples) -> None:
        model, other, batch = fresh().eval(), fresh().eval(), self.made.batch(examples)
        assert not torch.equal(other(batch), model(batch))
        other.load_state_dict(load(save(model.state_dict())))
        assert torch.equal(other(batch), model(batch))


@pytest.fixture(scope="session")
def check(made) -> Conformance:
    return Conformance(made)
