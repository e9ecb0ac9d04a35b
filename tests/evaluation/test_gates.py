import math

import pytest
import torch

from finerank.data.examples import Examples
from finerank.data.schema import Feature, Schema
from finerank.evaluation.gates import gate_report
from finerank.models.dnn import DNN
from finerank.models.mmoe import MMoE

SCHEMA = Schema(
    features=(Feature("x", "context", "number", "log", "x", 1),),
    histories=(),
    tasks=("click", "order"),
)


def examples(values):
    count = len(values)
    return Examples(
        schema=SCHEMA,
        users=None,
        items=None,
        stores={},
        user=torch.zeros(count, dtype=torch.int32),
        request={"x": torch.tensor(values)},
        windows={},
        first_candidate=torch.arange(count + 1),
        item=None,
        candidate={},
        labels=[torch.zeros(count), torch.zeros(count)],
    )


def mmoe(click, order):
    """Three experts whose gates read the number: logits are the weights times it."""
    model = MMoE(SCHEMA, num_experts=3, expert_units=(2,), tower_units=())
    with torch.no_grad():
        weight = model.head.gate_logits.weight.zero_()
        weight[:, :, 0] = torch.tensor([click, order])
    return model


def test_shares_and_entropy_by_hand():
    log2 = math.log(2)
    report = gate_report(mmoe([log2, 0.0, 0.0], [0.0, 0.0, 0.0]), examples([1.0, 0.0]))
    # the first row's shares are 1/2, 1/4, 1/4, the second's 1/3 each
    assert report["mean_share"]["click"] == pytest.approx([5 / 12, 7 / 24, 7 / 24], abs=1e-6)
    assert report["mean_share"]["order"] == pytest.approx([1 / 3] * 3, abs=1e-6)
    # entropies: 1.5 log 2, and log 3
    assert report["entropy_nats"]["click"] == pytest.approx(
        (1.5 * log2 + math.log(3)) / 2, abs=1e-6
    )
    assert report["entropy_nats"]["order"] == pytest.approx(math.log(3), abs=1e-6)
    assert report["warnings"] == []


def test_warns_of_a_collapsed_gate_and_an_unused_expert():
    report = gate_report(mmoe([9.0, 0.0, 0.0], [0.0, 0.0, -9.0]), examples([1.0, 1.0]))
    assert report["warnings"] == [
        "the gate of click has collapsed: expert 0 has 100.0% of it",
        "expert 2 is unused: at most 0.01% of any task",
    ]


def test_none_without_gates():
    assert gate_report(DNN(SCHEMA), examples([1.0])) is None
