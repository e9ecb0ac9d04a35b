"""Cross networks against those of torch-rechub, DeepCTR-Torch and FuxiCTR.

Shape letters: ``B`` rows, ``W`` the input's width, ``L`` layers, ``K`` low rank.
"""

import numpy as np
import pytest
import torch
from deepctr_torch import models as deepctr
from deepctr_torch.inputs import DenseFeat
from deepctr_torch.layers.interaction import CrossNet as DeepCTRCross
from deepctr_torch.layers.interaction import CrossNetMix as DeepCTRMix
from fuxictr.pytorch.layers import CrossNet as FuxiCross
from fuxictr.pytorch.layers import CrossNetMix as FuxiMix
from fuxictr.pytorch.layers import CrossNetV2 as FuxiCrossV2
from torch import nn
from torch_rechub.basic.features import SparseFeature
from torch_rechub.basic.layers import CrossNetMix as RechubMix
from torch_rechub.basic.layers import CrossNetV2 as RechubCrossV2
from torch_rechub.basic.layers import CrossNetwork as RechubCross
from torch_rechub.models import ranking as rechub

from finerank.models.interactions import CrossAndDeep
from finerank.nn.cross import CrossNetwork, CrossNetworkV2
from finerank.nn.joined import whole
from finerank.nn.mlp import MLP

B, W, L, K = 11, 7, 3, 2
VECTORS = {
    "torch-rechub": lambda: RechubCross(W, L),
    "deepctr-torch": lambda: DeepCTRCross(W, L, parameterization="vector"),
    "fuxictr": lambda: FuxiCross(W, L),
}
MATRICES = {
    "torch-rechub": lambda layers: RechubCrossV2(W, layers),
    "deepctr-torch": lambda layers: DeepCTRCross(W, layers, parameterization="matrix"),
    "fuxictr": lambda layers: FuxiCrossV2(W, layers),
}
MIXES = {
    "torch-rechub": lambda: RechubMix(W, num_layers=L, low_rank=K, num_experts=2),
    "deepctr-torch": lambda: DeepCTRMix(W, low_rank=K, num_experts=2, layer_num=L),
    "fuxictr": lambda: FuxiMix(W, layer_num=L, low_rank=K, num_experts=2),
}


def vector_of(peer):
    """Each layer's weight and bias of a vector cross network, ``(L, W)`` both."""
    match peer:
        case RechubCross():
            return torch.cat([w.weight for w in peer.w]), torch.stack(list(peer.b))
        case DeepCTRCross():
            return peer.kernels.squeeze(2), peer.bias.squeeze(2)
        case FuxiCross():
            return (
                torch.cat([layer.weight.weight for layer in peer.cross_net]),
                torch.stack([layer.bias for layer in peer.cross_net]),
            )


def matrix_of(peer):
    """Each layer's weight ``(W, W)`` and bias ``(W,)`` of a matrix cross network."""
    match peer:
        case RechubCrossV2():
            return [w.weight for w in peer.w], list(peer.b)
        case DeepCTRCross():
            return list(peer.kernels), list(peer.bias.squeeze(2))
        case FuxiCrossV2():
            return (
                [layer.weight for layer in peer.cross_layers],
                [layer.bias for layer in peer.cross_layers],
            )


@torch.no_grad()
def vector_like(peer):
    """Our vector cross network with a peer's weights."""
    ours = CrossNetwork(W, num_layers=L)
    weight, bias = vector_of(peer)
    ours.weight.copy_(weight)
    ours.bias.copy_(bias)
    return ours


@torch.no_grad()
def matrix_like(peer, num_layers=L):
    """Our matrix cross network with a peer's weights."""
    ours = CrossNetworkV2(W, num_layers=num_layers)
    for layer, weight, bias in zip(ours.layers, *matrix_of(peer), strict=True):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return ours


@pytest.mark.parametrize("peer", VECTORS)
def test_vector(bench, peer):
    theirs = bench.scattered(VECTORS[peer]())
    bench.agree(vector_like(theirs), theirs, torch.randn(B, W))


@pytest.mark.parametrize("peer", ["deepctr-torch", "fuxictr"])
def test_matrix(bench, peer):
    theirs = bench.scattered(MATRICES[peer](L))
    bench.agree(matrix_like(theirs), theirs, torch.randn(B, W))


def test_matrix_without_biases(bench):
    theirs = bench.scattered(MATRICES["torch-rechub"](L))
    for bias in theirs.b:
        nn.init.zeros_(bias)
    bench.agree(matrix_like(theirs), theirs, torch.randn(B, W))


def test_rechub_adds_the_matrix_bias_outside_the_product(bench):
    theirs = bench.scattered(MATRICES["torch-rechub"](1))
    ours = matrix_like(theirs, num_layers=1)
    (weight,), (bias,) = matrix_of(theirs)
    x = torch.randn(B, W)
    # DCN V2, eq. (1): the product is with W x + b.
    torch.testing.assert_close(ours(x), x * (x @ weight.T + bias) + x)
    torch.testing.assert_close(theirs(x), x * (x @ weight.T) + bias + x)
    bench.record("difference", (ours(x) - theirs(x)).abs().max().item())
    assert not torch.allclose(ours(x), theirs(x), atol=0.1)


@pytest.mark.parametrize("peer", ["deepctr-torch", "fuxictr"])
def test_low_rank_is_the_matrix_of_its_product(bench, peer):
    theirs = bench.scattered(MATRICES[peer](L))
    ours = bench.scattered(CrossNetworkV2(W, num_layers=L, low_rank=K))
    with torch.no_grad():
        for (narrow, wide), weight, bias in zip(ours.layers, *matrix_of(theirs), strict=True):
            weight.copy_(wide.weight @ narrow.weight)
            wide.bias.copy_(bias)
    bench.agree(ours, theirs, torch.randn(B, W))


@pytest.mark.parametrize("peer", MIXES)
def test_a_mix_squeezes_a_batch_of_one_away(bench, peer):
    theirs = bench.scattered(MIXES[peer]())
    ours = bench.scattered(CrossNetworkV2(W, num_layers=L, low_rank=K))
    x = torch.randn(1, W)
    assert theirs(x).shape == (W,)
    assert ours(x).shape == (1, W)
    assert theirs(torch.randn(2, W)).shape == (2, W)


def test_deepctr_dcn_mix_fails_on_a_batch_of_one(bench):
    theirs = deepctr.DCNMix([], [DenseFeat("x", W)], low_rank=K, dnn_hidden_units=(5,)).float()
    with pytest.raises(RuntimeError, match="same number of dimensions"):
        theirs.predict({"x": np.ones((1, W))})
    assert theirs.predict({"x": np.ones((2, W))}).shape == (2, 1)
    ours = bench.scattered(
        CrossAndDeep(CrossNetworkV2(W, num_layers=2, low_rank=K), MLP(W, (5,)), stacked=False)
    )
    x = torch.randn(2, W)
    both, alone = (whole(ours(x[:n, :3], x[:n, 3:], torch.arange(n))) for n in (2, 1))
    torch.testing.assert_close(alone, both[:1])


class OurDCN(nn.Module):
    """Our cross network beside our MLP, then one linear layer."""

    def __init__(self, cross, normalization=None):
        super().__init__()
        deep = MLP(W, (6, 5), normalization=normalization)
        self.join = CrossAndDeep(cross, deep, stacked=False)
        self.logit = nn.Linear(self.join.output_dim, 1)

    def forward(self, x):
        """Return the probabilities ``(B, 1)``; the first columns stand for the request's."""
        joined = self.join(x[:, :3], x[:, 3:], torch.arange(len(x)))
        return self.logit(whole(joined)).sigmoid()


@pytest.mark.parametrize("cross", ["vector", "matrix"])
def test_dcn_of_deepctr(bench, cross):
    theirs = deepctr.DCN(
        [], [DenseFeat("x", W)], cross_num=L, cross_parameterization=cross, dnn_hidden_units=(6, 5)
    )
    bench.scattered(theirs)
    ours = OurDCN((vector_like if cross == "vector" else matrix_like)(theirs.crossnet))
    with torch.no_grad():
        for mine, their in zip(ours.join.deep.linears, theirs.dnn.linears, strict=True):
            mine.load_state_dict(their.state_dict())
        ours.logit.weight.copy_(theirs.dnn_linear.weight)
        ours.logit.bias.copy_(theirs.out.bias)
    bench.agree(ours, theirs, torch.randn(B, W))


@pytest.mark.parametrize("training", [True, False])
def test_dcn_of_rechub(bench, training):
    """Its MLP always normalises over the batch, as ours does where asked."""
    theirs = rechub.DCN([SparseFeature("row", B, W)], L, {"dims": [6, 5]})
    bench.scattered(theirs).train(training)
    ours = OurDCN(vector_like(theirs.cn), normalization="batch").train(training)
    blocks = list(theirs.mlp.mlp)
    with torch.no_grad():
        for linear, finish, their, norm in zip(
            ours.join.deep.linears, ours.join.deep.finishes, blocks[::4], blocks[1::4], strict=True
        ):
            linear.weight.copy_(their.weight)
            finish[0].load_state_dict(norm.state_dict())
            finish[0].running_mean -= their.bias  # ours has no bias: the mean takes it off again
        ours.logit.load_state_dict(theirs.linear.fc.state_dict())

    def score(x):
        """Their model's scores; the rows are those of its only embedding table."""
        table = {"embedding.embed_dict.row.weight": x}
        return torch.func.functional_call(theirs, table, {"row": torch.arange(B)})

    bench.agree(lambda x: ours(x).squeeze(1), score, torch.randn(B, W))
