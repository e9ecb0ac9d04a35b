"""Options that no model can have: one error in words, before anything is built."""

import pytest

from finerank.errors import FinerankError
from finerank.models.registry import build
from finerank.settings import ModelSettings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "ple", "num_levels": 0}, r"model: num_levels: expected .*1, found 0"),
        ({"name": "ple", "expert_units": []}, r"model: expert_units: expected .*, found \[\]"),
        ({"name": "ple", "shared_experts": 0}, r"model: shared_experts: expected .*1, found 0"),
        ({"name": "mmoe", "num_experts": 0}, r"model: num_experts: expected .*1, found 0"),
        ({"name": "mmoe", "expert_units": []}, r"model: expert_units: expected .*, found \[\]"),
        ({"name": "dcn", "num_cross_layers": -1}, r"model: num_cross_layers: .* found -1"),
        ({"name": "dcn", "rank": 0}, r"model: rank: expected .*1, found 0"),
        ({"name": "dnn", "embedding_dim": 0}, r"model: embedding_dim: expected .*1, found 0"),
        ({"name": "dnn", "hidden_units": [8, 0]}, r"model: hidden_units.*: expected .*1, found 0"),
        ({"name": "dnn", "dropout": 1.5}, r"model: dropout: expected .*1, found 1\.5"),
        ({"name": "din", "attention_hidden_units": []}, r"model: attention_hidden_units: .*\[\]"),
        ({"name": "dnn", "head": {"num_experts": 3}}, r"a kind, beside .*, found num_experts"),
        (
            {"name": "dnn", "head": {"kind": "mmoe", "num_experts": 0}},
            r"model: head.*num_experts: expected .*1, found 0",
        ),
        ({"name": "dnn", "pooling": {"clicked": {"softmax": True}}}, "a kind, beside its own opt"),
    ],
)
def test_what_no_model_can_have(made, options, message):
    with pytest.raises(FinerankError, match=message):
        build(made.schemas["one history"], ModelSettings(**options))
