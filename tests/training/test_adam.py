"""Adam equals torch's, and loads nothing that it does not need."""

import subprocess
import sys

import pytest
import torch

from finerank.training.adam import Adam


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_numbers_are_those_of_torch(dtype, decay):
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(size, dtype=dtype)) for size in [(3, 4), (4,), (2, 1)]]
    theirs = [torch.nn.Parameter(each.detach().clone()) for each in ours]
    adam = Adam(ours, learning_rate=0.1, weight_decay=decay)
    reference = torch.optim.Adam(theirs, lr=0.1, weight_decay=decay)
    for step in range(6):
        if step == 3:
            adam.learning_rate = reference.param_groups[0]["lr"] = 0.02
        adam.zero_grad()
        reference.zero_grad()
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if place == 1 and step in (0, 4):
                continue  # no gradient: it rests, and its steps don't count
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        adam.step()
        reference.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_no_gradient_no_step():
    weight = torch.nn.Parameter(torch.ones(2))
    adam = Adam([weight], learning_rate=0.1)
    adam.step()
    assert weight.tolist() == [1, 1]


def test_the_compiler_is_not_loaded():
    code = (
        "import sys, torch\n"
        "from finerank.training.adam import Adam\n"
        "w = torch.nn.Parameter(torch.ones(2)); w.sum().backward()\n"
        "Adam([w], learning_rate=0.1).step()\n"
        "assert w[0] < 1\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
