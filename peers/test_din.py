"""Target attention against that of FuxiCTR, DeepCTR-Torch and torch-rechub.

The peers read padded histories ``(B, L, D)``, one for each candidate; ours reads the steps of all
requests end to end. Shape letters: ``B`` candidates, ``R`` requests, ``L`` steps, ``D`` width.
"""

import pytest
import torch
from deepctr_torch import models as deepctr
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.layers.sequence import AttentionSequencePoolingLayer
from fuxictr.pytorch.layers import DIN_Attention
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models import ranking as rechub
from torch_rechub.models.ranking.din import ActivationUnit

from finerank.data.batch import Batch, Steps
from finerank.data.schema import Feature, History, Schema
from finerank.models.din import DIN
from finerank.nn.target_attention import TargetAttention

D, UNITS = 4, (6, 5)
LENGTHS = (5, 5, 5)
RAGGED = (2, 6, 1)
REQUEST_OF_CANDIDATE = torch.tensor([0, 2, 1, 1, 0, 2, 2])
PADS = 20


class Fuxi(nn.Module):
    """FuxiCTR's attention, called as ours is."""

    def __init__(self, *, dice, softmax):
        super().__init__()
        self.attention = DIN_Attention(
            D, list(UNITS), "Dice" if dice else "ReLU", use_softmax=softmax
        )
        *hidden, self.logit = self.attention.attention_layer.mlp
        self.linears = hidden[::2]
        self.dices = [block for block in hidden[1::2] if dice]

    def forward(self, candidate, padded, lengths):
        """Return each candidate's view of its history ``(B, D)``."""
        mask = torch.arange(padded.shape[1]) < lengths.unsqueeze(1)
        return self.attention(candidate, padded, mask)


class DeepCTR(nn.Module):
    """DeepCTR-Torch's attention, called as ours is; the affine map in its Dice left out."""

    def __init__(self, *, dice, softmax):
        super().__init__()
        self.attention = AttentionSequencePoolingLayer(
            UNITS, "dice" if dice else "relu", weight_normalization=softmax, embedding_dim=D
        )
        unit = self.attention.local_att
        self.linears, self.logit = unit.dnn.linears, unit.dense
        self.dices = unit.dnn.activation_layers if dice else []

    def forward(self, candidate, padded, lengths):
        """Return each candidate's view of its history ``(B, D)``."""
        return self.attention(candidate.unsqueeze(1), padded, lengths).squeeze(1)


PEERS = {"fuxictr": Fuxi, "deepctr-torch": DeepCTR}


def peer_of(bench, name, **options):
    """A peer's attention with random weights."""
    theirs = bench.scattered(PEERS[name](**options))
    for dice in theirs.dices:
        if dice.bn.affine:
            nn.init.ones_(dice.bn.weight)
            nn.init.zeros_(dice.bn.bias)
    return theirs


@torch.no_grad()
def copy_linears(ours, layers, logit):
    """Give our attention the weights of one that also reads the difference.

    W1 c + W2 h + W3 (c - h) + W4 (c * h) = (W1 + W3) c + (W2 - W3) h + W4 (c * h)
    """
    (weight, bias), *others = layers
    w1, w2, w3, w4 = weight.split(D, dim=1)
    first, *linears = ours.mlp.linears
    first.weight.copy_(torch.cat([w1 + w3, w2 - w3, w4], dim=1))
    first.bias.copy_(bias)
    for mine, (weight, bias) in zip(linears, others, strict=True):
        mine.weight.copy_(weight)
        mine.bias.copy_(bias)
    ours.logit.weight.copy_(logit.weight)
    if ours.logit.bias is not None:  # with softmax ours has none: it would cancel
        ours.logit.bias.copy_(logit.bias)


def attention_like(theirs, *, dice, softmax):
    """Our target attention with a peer's weights, slopes and statistics."""
    ours = TargetAttention(
        D, hidden_units=UNITS, activation="dice" if dice else "relu", softmax=softmax
    )
    copy_linears(ours, [(each.weight, each.bias) for each in theirs.linears], theirs.logit)
    for finish, their in zip(ours.mlp.finishes, theirs.dices, strict=False):
        finish[0].alpha.data.copy_(their.alpha.flatten())
        finish[0].normalization.running_mean.copy_(their.bn.running_mean)
        finish[0].normalization.running_var.copy_(their.bn.running_var)
    return ours.train(theirs.training)


class Histories:
    """Histories of given lengths, for both ways to call."""

    def __init__(self, lengths, pads=0, pad=7.0):
        self.lengths, self.pads, self.pad = torch.tensor(lengths), pads, pad
        self.offsets = nn.functional.pad(self.lengths.cumsum(0), (1, 0))

    def inputs(self):
        """Random candidates ``(B, D)`` and steps ``(N, D)``."""
        return torch.randn(len(REQUEST_OF_CANDIDATE), D), torch.randn(self.lengths.sum(), D)

    def ours(self, attention):
        """Ours as a function of candidates and steps."""
        return lambda candidate, steps: attention(
            candidate, steps, self.offsets, REQUEST_OF_CANDIDATE
        )

    def theirs(self, attention):
        """A peer's as a function of candidates and steps."""

        def of(candidate, steps):
            rows = pad_sequence(steps.split(self.lengths.tolist()), True, padding_value=self.pad)
            rows = nn.functional.pad(rows, (0, 0, 0, self.pads), value=self.pad)
            lengths = self.lengths[REQUEST_OF_CANDIDATE]
            return attention(candidate, rows[REQUEST_OF_CANDIDATE], lengths)

        return of


softmax_or_not = pytest.mark.parametrize("softmax", [False, True], ids=["sum", "softmax"])
each_peer = pytest.mark.parametrize("peer", PEERS)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@softmax_or_not
@each_peer
def test_dice_without_padding(bench, peer, softmax, training):
    theirs = peer_of(bench, peer, dice=True, softmax=softmax).train(training)
    ours = attention_like(theirs, dice=True, softmax=softmax)
    histories = Histories(LENGTHS)
    bench.agree(histories.ours(ours), histories.theirs(theirs), *histories.inputs())


@softmax_or_not
@each_peer
def test_relu_with_padding(bench, peer, softmax):
    theirs = peer_of(bench, peer, dice=False, softmax=softmax)
    ours = attention_like(theirs, dice=False, softmax=softmax)
    histories = Histories(RAGGED, PADS)
    bench.agree(histories.ours(ours), histories.theirs(theirs), *histories.inputs())


@softmax_or_not
def test_rechub_relu_without_padding(bench, softmax):
    """Its MLP has norms, which are linear in evaluation."""
    unit = ActivationUnit(D, dims=list(UNITS), activation="relu", use_softmax=softmax)
    bench.scattered(unit).eval()
    ours = TargetAttention(D, hidden_units=UNITS, activation="relu", softmax=softmax)
    *hidden, logit = unit.attention.mlp
    layers = []
    for linear, norm in zip(hidden[::4], hidden[1::4], strict=True):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        bias = (linear.bias - norm.running_mean) * scale + norm.bias
        layers.append((linear.weight * scale.unsqueeze(1), bias))
    copy_linears(ours, layers, logit)
    histories = Histories(LENGTHS)
    theirs = histories.theirs(lambda candidate, padded, _: unit(padded, candidate))
    bench.agree(histories.ours(ours), theirs, *histories.inputs())


@each_peer
def test_dice_counts_the_padding(bench, peer):
    """In training, pads of nought change a peer's output; ours is theirs without any."""
    theirs = peer_of(bench, peer, dice=True, softmax=False)
    ours = attention_like(theirs, dice=True, softmax=False)
    bare, padded = Histories(LENGTHS), Histories(LENGTHS, PADS, pad=0.0)
    inputs = bare.inputs()
    right, wrong = bare.theirs(theirs)(*inputs), padded.theirs(theirs)(*inputs)
    bench.record("moved by pads", (wrong - right).abs().max().item())
    assert (wrong - right).abs().max() > 1e-2
    torch.testing.assert_close(bare.ours(ours)(*inputs), right, atol=1e-6, rtol=0)


@each_peer
def test_softmax_of_an_empty_history_is_the_mean_of_its_pads(bench, peer):
    theirs = peer_of(bench, peer, dice=False, softmax=True)
    ours = attention_like(theirs, dice=False, softmax=True)
    histories = Histories((0, 3, 2), 1)
    inputs = histories.inputs()
    empty = REQUEST_OF_CANDIDATE == 0
    seen = histories.theirs(theirs)(*inputs)[empty]
    torch.testing.assert_close(seen, torch.full_like(seen, 7.0))
    assert histories.ours(ours)(*inputs)[empty].eq(0).all()


@pytest.mark.parametrize("padding_idx", [0, None])
@softmax_or_not
def test_rechub_has_no_mask(bench, softmax, padding_idx):
    """A user's score moves with the number of pads behind their history."""
    history = SequenceFeature("history", 9, D, "concat", "item", padding_idx=padding_idx)
    user, item = SparseFeature("user", 3, D), SparseFeature("item", 9, D, padding_idx=padding_idx)
    attention = {"dims": list(UNITS), "activation": "relu", "use_softmax": softmax}
    model = rechub.DIN([user], [history], [item], {"dims": [6]}, attention)
    bench.scattered(model).eval()
    of_item = nn.init.normal_(model.embedding.embed_dict["item"].weight, std=2)
    if padding_idx is not None:
        of_item.data[padding_idx] = 0

    def score(pads):
        ids = nn.functional.pad(torch.tensor([[3, 5, 8]]), (0, pads))
        return model({"user": torch.tensor([1]), "item": torch.tensor([4]), "history": ids}).item()

    moved = abs(score(PADS) - score(0))
    bench.record("moved by pads", moved)
    if padding_idx is None or softmax:
        assert moved > 1e-3
    else:  # a pad's embedding is nought, and so is its part of the sum
        assert moved < 1e-12


def deepctr_din(bench, sparse, varlen, **options):
    """Their DIN with random weights, and the inputs of its attention, filled by a call."""
    columns = [SparseFeat(name, 9, D) for name in sparse]
    columns += [
        VarLenSparseFeat(SparseFeat(name, 9, D, embedding_name=table), 4, length_name=length)
        for name, table, length in varlen
    ]
    history = [name for name in sparse if any(name == table for _, table, _ in varlen)]
    model = bench.scattered(deepctr.DIN(columns, history, dnn_hidden_units=(6,), **options))
    seen = []
    model.attention.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    return model.eval(), seen


def deepctr_rows(model, **columns):
    """One row of their input matrix, the columns in the order that their model has them."""
    return torch.cat(
        [torch.tensor([columns[name]]) for name in model.feature_index], dim=1
    ).double()


def test_deepctr_takes_the_first_length_for_its_mask(bench):
    """The length of the tags, where these are declared before the history."""
    model, _ = deepctr_din(
        bench,
        ["item"],
        [("tags", "tags", "tags_length"), ("hist_item", "item", "hist_length")],
    )
    row = {"item": [4], "tags": [1, 0, 0, 0], "tags_length": [1], "hist_length": [4]}
    score, other_steps = (
        model(deepctr_rows(model, **row, hist_item=[3, *steps])).item()
        for steps in ([5, 8, 2], [6, 7, 1])
    )
    assert score == other_steps  # the mask is that of one tag
    other_first = model(deepctr_rows(model, **row, hist_item=[2, 5, 8, 2])).item()
    assert score != other_first

    ours = bench.scattered(our_din("item"))
    first, second = (ours(our_batch(item=[3, *steps])) for steps in ([5, 8, 2], [6, 7, 1]))
    bench.record("ours moved by other steps", (first - second).abs().item())
    assert (first - second).abs() > 1e-2


def test_deepctr_compares_features_by_their_order(bench):
    """An item with a category, where the history's columns are declared the other way round."""
    model, seen = deepctr_din(
        bench,
        ["item", "category"],
        [("hist_category", "category", "length"), ("hist_item", "item", "length")],
    )
    row = {"item": [4], "category": [2], "hist_category": [3] * 4, "hist_item": [5] * 4}
    model(deepctr_rows(model, **row, length=[4]))
    query, keys, _ = seen
    of_item, of_category = (model.embedding_dict[name].weight for name in ("item", "category"))
    assert torch.equal(query[0, 0], torch.cat([of_item[4], of_category[2]]))
    assert torch.equal(keys[0, 0], torch.cat([of_category[3], of_item[5]]))

    ours = bench.scattered(our_din("item", "category", in_step=("category", "item")))
    fields = ours.inputs(our_batch(item=[5] * 4, category=[3] * 4))
    tables = ours.inputs.tables
    candidate = torch.cat([tables["of_category"][2], tables["of_item"][4]])
    assert torch.equal(fields.targets["clicked"][0], candidate)
    step = torch.cat([tables["of_category"][3], tables["of_item"][5]])
    assert torch.equal(fields.steps["clicked"][0], step)


def our_din(*names, in_step=None):
    """Our DIN on ids of the item and a history of them."""
    features = tuple(Feature(name, "item", "id", "log", name, 9, name) for name in names)
    history = History("clicked", in_step or names, max_length=4)
    return DIN(Schema(features, (history,), ("click",)), embedding_dim=D, hidden_units=(6,)).eval()


def our_batch(**steps):
    """Item 4 of category 2 for one request with four steps."""
    candidate = {"item": torch.tensor([4]), "category": torch.tensor([2])}
    columns = {name: torch.tensor(ids) for name, ids in steps.items()}
    one = torch.zeros(1, dtype=torch.int64)
    history = Steps(columns, torch.tensor([0, 4]))
    return Batch({}, {n: candidate[n] for n in steps}, {"clicked": history}, one, None, one)
