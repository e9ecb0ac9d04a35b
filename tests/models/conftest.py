"""What the tests of the models share: every model of the registry, small."""

from typing import Any

import pytest
import torch

from finerank.data.schema import Schema
from finerank.models.ranking_model import RankingModel
from finerank.models.registry import MODELS, build, options_of
from finerank.settings import ModelSettings


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=sorted(MODELS))
def name(request) -> str:
    return request.param


@pytest.fixture
def small():
    def small(name: str, schema: Schema, **options: Any) -> RankingModel:
        """A model with two to four units a layer, none of them dead, its weights far from 0."""
        known = options_of(name).model_fields
        sizes = {"embedding_dim": 2, "rank": 2, "num_experts": 3}
        sizes |= {key: [4, 3] for key in known if key.endswith("_units")}
        sizes |= {"activation": "silu"} if name != "din" else {}
        settings = {key: size for key, size in sizes.items() if key in known} | options
        model = build(schema, ModelSettings(name=name, **settings))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.5)
            for key, buffer in model.named_buffers():
                if key.endswith("running_mean"):
                    buffer.copy_(torch.randn_like(buffer) * 0.3)
                if key.endswith("running_var"):
                    buffer.copy_(torch.rand_like(buffer) + 0.5)
        return model

    return small
