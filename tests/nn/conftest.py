"""What the tests of the blocks share: a fixed seed, filled weights, checks that suit any block."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from finerank.nn.kernels import library


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def without_compiled(monkeypatch) -> None:
    """As where there are no compiled functions."""
    monkeypatch.setattr(library, "is_there", lambda: False)


class Histories(NamedTuple):
    """Four requests (the second has no history) and their six candidates, not in order."""

    offsets: Tensor
    request_of_candidate: Tensor

    @property
    def num_steps(self) -> int:
        return int(self.offsets[-1])


@pytest.fixture
def histories() -> Histories:
    return Histories(torch.tensor([0, 2, 2, 5, 6]), torch.tensor([2, 0, 1, 2, 3, 0]))


@pytest.fixture
def set_parameters() -> Callable[..., None]:
    def set_parameters(module: nn.Module, **values: Sequence[object]) -> None:
        """Set every parameter of the module; a dot in a name is written as two underscores."""
        wanted = {name.replace("__", "."): torch.tensor(v) for name, v in values.items()}
        parameters = dict(module.named_parameters())
        assert wanted.keys() == parameters.keys()
        with torch.no_grad():
            for name, value in wanted.items():
                assert parameters[name].shape == value.shape, name
                parameters[name].copy_(value)

    return set_parameters


@pytest.fixture
def check_gradients() -> Callable[..., None]:
    def check_gradients(module: nn.Module, call: Callable[[], Tensor], *inputs: Tensor) -> None:
        """Check the gradients of all inputs and parameters, which `call` reads, against steps."""
        leaves = (*inputs, *module.parameters())
        assert all(leaf.dtype == torch.float64 and leaf.requires_grad for leaf in leaves)
        assert torch.autograd.gradcheck(lambda *_: call(), leaves)
        (call() ** 2).sum().backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad.abs().max() > 1e-9, f"{name} gets no gradient"

    return check_gradients


@pytest.fixture
def check_rows_apart() -> Callable[..., None]:
    def check_rows_apart(module: nn.Module, x: Tensor) -> None:
        """Check that in eval mode a row scores the same alone or in any batch, none included."""
        module.eval()
        together = module(x)
        alone = torch.cat([module(row) for row in x.split(1)])
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)
        torch.testing.assert_close(module(x.flip(0)).flip(0), together, rtol=0, atol=1e-12)
        for mode in (True, False):
            empty = module.train(mode)(x[:0])
            assert empty.shape == (0, *together.shape[1:])

    return check_rows_apart
