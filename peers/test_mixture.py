"""MMoE and Shared-Bottom against those of torch-rechub and DeepCTR-Torch.

Shape letters: ``B`` rows, ``W`` the input's width, ``E`` experts, ``T`` tasks.
"""

import importlib

import numpy as np
import pytest
import torch
from deepctr_torch import models as deepctr
from deepctr_torch.inputs import DenseFeat
from torch import nn
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models import multi_task as rechub

from finerank.evaluation.metrics import auc
from finerank.nn.heads import MixtureHead, SharedBottomHead

B, W, E, T = 11, 7, 4, 3
BINARY = {"task_types": ["binary"] * T, "task_names": ["click", "cart", "order"]}
CLASSIFICATION = ["classification"] * T


def mixture():
    """Our MMoE with two layers in each expert and one in each tower."""
    return MixtureHead(W, num_tasks=T, num_experts=E, expert_units=(6, 5), tower_units=(4,))


def shared_bottom():
    """Our Shared-Bottom with two layers in the bottom and one in each tower."""
    return SharedBottomHead(W, num_tasks=T, bottom_units=(6, 5), tower_units=(4,))


def score(head):
    """A head's probabilities ``(B, T)`` as a function of its input."""
    return lambda x: head(x, x, torch.arange(len(x))).sigmoid()


@torch.no_grad()
def copy_members(stacked, members):
    """Give each member of our stacked layers the weight and bias of one list of layers."""
    for index, layers in enumerate(members):
        for mine, (weight, bias) in zip(stacked, layers, strict=True):
            mine.weight[index] = weight
            mine.bias[index] = bias


def layers_of_deepctr(dnn, final=None, out=None):
    """Weight and bias of each linear layer; the last one's bias is the prediction layer's."""
    layers = [(linear.weight, linear.bias) for linear in dnn.linears]
    return layers if final is None else [*layers, (final.weight, out.bias)]


def deepctr_towers(theirs):
    """Each task's tower as weights and biases."""
    parts = zip(theirs.tower_dnn, theirs.tower_dnn_final_layer, theirs.out, strict=True)
    return [layers_of_deepctr(*tower) for tower in parts]


def layers_of_rechub(mlp):
    """Weight and bias of each linear layer, with the running statistics of the norm after it."""
    layers = []
    for linear, norm in zip(mlp.mlp[:-1:4], mlp.mlp[1:-1:4], strict=True):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        bias = (linear.bias - norm.running_mean) * scale + norm.bias
        layers.append((linear.weight * scale.unsqueeze(1), bias))
    last = mlp.mlp[-1]
    return [*layers, (last.weight, last.bias)] if isinstance(last, nn.Linear) else layers


def rechub_score(theirs):
    """Their probabilities as a function of the rows of their only embedding table."""

    def of(x):
        table = {"embedding.embed_dict.row.weight": x}
        return torch.func.functional_call(theirs, table, {"row": torch.arange(len(x))})

    return of


def rechub_mmoe():
    """Their MMoE of our `mixture`'s shape."""
    return rechub.MMOE(
        [SparseFeature("row", B, W)], CLASSIFICATION, E, {"dims": [6, 5]}, [{"dims": [4]}] * T
    )


def test_mmoe_of_deepctr(bench):
    theirs = deepctr.multitask.MMOE(
        [DenseFeat("x", W)],
        num_experts=E,
        expert_dnn_hidden_units=(6, 5),
        gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=(4,),
        **BINARY,
    )
    bench.scattered(theirs)
    ours = mixture()
    copy_members(ours.experts.mlps.linears, map(layers_of_deepctr, theirs.expert_dnn))
    copy_members([*ours.towers.mlps.linears, ours.towers.logit], deepctr_towers(theirs))
    weights = [their.weight for their in theirs.gate_dnn_final_layer]
    ours.gate_logits.load_state_dict({"weight": torch.stack(weights)})
    bench.agree(score(ours), theirs, torch.randn(B, W))


def test_shared_bottom_of_deepctr(bench):
    theirs = deepctr.multitask.SharedBottom(
        [DenseFeat("x", W)], bottom_dnn_hidden_units=(6, 5), tower_dnn_hidden_units=(4,), **BINARY
    )
    bench.scattered(theirs)
    ours = shared_bottom()
    for mine, their in zip(ours.bottom.linears, theirs.bottom_dnn.linears, strict=True):
        mine.load_state_dict(their.state_dict())
    copy_members([*ours.towers.mlps.linears, ours.towers.logit], deepctr_towers(theirs))
    bench.agree(score(ours), theirs, torch.randn(B, W))


@torch.no_grad()
def test_mmoe_of_rechub_with_fixed_statistics(bench):
    """Its norms are linear in evaluation; the one on the gates must not shift the logits."""
    theirs = bench.scattered(rechub_mmoe()).eval()
    ours = mixture()
    copy_members(ours.experts.mlps.linears, map(layers_of_rechub, theirs.experts))
    towers = [*ours.towers.mlps.linears, ours.towers.logit]
    copy_members(towers, map(layers_of_rechub, theirs.towers))
    for gate, their in zip(ours.gate_logits.weight, theirs.gates, strict=True):
        ((weight, shift),) = layers_of_rechub(their)
        their.mlp[1].bias -= shift
        gate.copy_(weight)
    with torch.enable_grad():
        bench.agree(score(ours), rechub_score(theirs), torch.randn(B, W))


@torch.no_grad()
def test_shared_bottom_of_rechub_with_fixed_statistics(bench):
    theirs = rechub.SharedBottom(
        [SparseFeature("row", B, W)], CLASSIFICATION, {"dims": [6, 5]}, [{"dims": [4]}] * T
    )
    bench.scattered(theirs).eval()
    ours = shared_bottom()
    for mine, (weight, bias) in zip(
        ours.bottom.linears, layers_of_rechub(theirs.bottom_mlp), strict=True
    ):
        mine.weight.copy_(weight)
        mine.bias.copy_(bias)
    towers = [*ours.towers.mlps.linears, ours.towers.logit]
    copy_members(towers, map(layers_of_rechub, theirs.towers))
    with torch.enable_grad():
        bench.agree(score(ours), rechub_score(theirs), torch.randn(B, W))


def test_rechub_normalises_the_gates_logits_over_the_batch(bench):
    """In training a row's shares depend on its batch mates, and not on the scale of the weights."""
    theirs, gate_logits = (
        bench.scattered(rechub_mmoe()).gates[0],
        bench.scattered(mixture()).gate_logits,
    )

    def ours(x):
        return gate_logits.shared(x).softmax(dim=2)

    x = torch.randn(B, W)
    other = x.clone()
    other[1:] *= 3
    bench.record("moved by batch mates", (theirs(other) - theirs(x))[0].abs().max().item())
    assert (theirs(other) - theirs(x))[0].abs().max() > 1e-2
    assert torch.equal(ours(other)[0], ours(x)[0])

    shares, our_shares = theirs(x), ours(x)
    theirs.mlp[0].weight.data *= 10
    gate_logits.weight.data *= 10
    bench.record("moved by weights tenfold", (theirs(x) - shares).abs().max().item())
    torch.testing.assert_close(theirs(x), shares, atol=1e-4, rtol=0)
    bench.record("ours by weights tenfold", (ours(x) - our_shares).abs().max().item())
    assert (ours(x) - our_shares).abs().max() > 0.1


def test_deepctr_takes_one_auc_over_the_labels_of_all_tasks(bench):
    """Constant scores that only know how frequent each task's label is."""
    theirs = deepctr.multitask.MMOE([DenseFeat("x", W)]).float()
    for parameter in theirs.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(theirs.out[0].bias, 2.0)
    nn.init.constant_(theirs.out[1].bias, -2.0)
    theirs.compile("sgd", "binary_crossentropy", metrics=["auc"])
    x = {"x": np.zeros((10, W))}
    labels = np.array([[1, 0]] * 8 + [[0, 0], [1, 1]])  # nine in ten, one in ten
    value = theirs.evaluate(dict(x), labels)["auc"]
    bench.record("AUC of constant scores", value)
    assert value == pytest.approx(0.9)
    scores = theirs.predict(dict(x))
    assert [auc(labels[:, task], scores[:, task]) for task in (0, 1)] == [0.5, 0.5]


def test_fuxictr_ships_no_mmoe():
    """Its package of multi-task models names MMoE and has no file of it."""
    with pytest.raises(ModuleNotFoundError, match="MMoE"):
        importlib.import_module("model_zoo.multitask")
