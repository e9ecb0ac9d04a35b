"""Dice against that of FuxiCTR, DeepCTR-Torch and torch-rechub.

Shape letters: ``B`` rows, ``H`` neurons.
"""

import pytest
import torch
from deepctr_torch.layers.activation import Dice as DeepCTRDice
from fuxictr.pytorch.layers import Dice as FuxiDice
from torch import nn
from torch_rechub.basic.activation import Dice as RechubDice

from finerank.nn.activations import Dice

B, H = 13, 6


def dice_like(peer):
    """Our Dice with a peer's slopes and running statistics."""
    ours = Dice(H).train(peer.training)
    ours.alpha.data.copy_(peer.alpha)
    ours.normalization.running_mean.copy_(peer.bn.running_mean)
    ours.normalization.running_var.copy_(peer.bn.running_var)
    return ours


@pytest.mark.parametrize("training", [True, False])
def test_fuxictr(bench, training):
    theirs = bench.scattered(FuxiDice(H)).train(training)
    bench.agree(dice_like(theirs), theirs, 3 * torch.randn(B, H) + 1)


@pytest.mark.parametrize("training", [True, False])
def test_deepctr_before_its_scale_and_shift_move(bench, training):
    theirs = bench.scattered(DeepCTRDice(H)).train(training)
    nn.init.ones_(theirs.bn.weight)
    nn.init.zeros_(theirs.bn.bias)
    bench.agree(dice_like(theirs), theirs, 3 * torch.randn(B, H) + 1)


def test_deepctr_learns_a_scale_and_a_shift(bench):
    """The paper has neither: p is 1/2 where an input is at the mean of its neuron's."""
    theirs = DeepCTRDice(H)
    theirs(torch.randn(B, H)).square().sum().backward()
    assert theirs.bn.weight.grad.abs().min() > 0
    assert theirs.bn.bias.grad.abs().min() > 0

    bench.scattered(theirs).eval()
    nn.init.zeros_(theirs.alpha)
    mean = theirs.bn.running_mean.unsqueeze(0)
    theirs_p, ours_p = theirs(mean) / mean, dice_like(theirs)(mean) / mean  # p s, with alpha 0
    bench.record("smallest p at the mean", theirs_p.min().item())
    bench.record("largest p at the mean", theirs_p.max().item())
    assert (theirs_p - 0.5).abs().max() > 0.05
    torch.testing.assert_close(ours_p, torch.full_like(ours_p, 0.5))


def test_rechub_normalises_over_the_neurons_of_a_row(bench):
    theirs, ours = RechubDice(), bench.scattered(Dice(H))
    nn.init.constant_(theirs.alpha, 0.25)
    s = torch.randn(B, H)
    s[0, 0] = 2
    other_neuron, other_row = s.clone(), s.clone()
    other_neuron[0, 1] += 5  # the row's second neuron
    other_row[1, 0] += 5  # the neuron's second row

    def shift(dice, changed):
        """How far the first row's first neuron moves."""
        return (dice(changed) - dice(s))[0, 0].abs().item()

    bench.record("moved by another neuron", shift(theirs, other_neuron))
    assert shift(theirs, other_neuron) > 1e-2
    assert shift(theirs, other_row) == 0
    assert shift(ours, other_neuron) == 0
    assert shift(ours, other_row) > 1e-2


def test_rechub_gate_neither_opens_nor_closes(bench):
    """The sum of squares in the place of the variance keeps the input of the sigmoid in ±1."""
    theirs, ours = RechubDice(), Dice(H)
    nn.init.zeros_(theirs.alpha)
    s = torch.randn(4096, H)
    s[:, 0] *= 1000
    theirs_p, ours_p = theirs(s) / s, ours(s) / s  # where alpha is 0 the output is p s
    bench.record("smallest p", theirs_p.min().item())
    bench.record("largest p", theirs_p.max().item())
    bound = torch.tensor(1.0).sigmoid()  # 0.73
    assert 1 - bound < theirs_p.min()
    assert theirs_p.max() < bound
    assert ours_p.min() < 0.05
    assert ours_p.max() > 0.95


def test_rechub_has_one_slope_for_all_neurons():
    assert RechubDice().alpha.shape == (1,)
    assert Dice(H).alpha.shape == (H,)
