"""What the comparisons with other libraries share. Their measured numbers close pytest's report."""

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

# On import deepctr-torch asks the network for its newest version, in a thread.
sys.modules["deepctr_torch.utils"] = SimpleNamespace(check_version=lambda _: None)

TOLERANCE = 1e-6


@pytest.fixture(autouse=True)
def _reproducible():
    """Random numbers that don't depend on other tests; float64, which peers build with too."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Bench:
    """Sets weights and compares functions."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self.record = record

    def scattered(self, module: nn.Module) -> nn.Module:
        """The module, every weight random and every running statistic off its start."""
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.5)
            for name, buffer in module.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_()
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0)
        return module

    def agree(
        self,
        ours: Callable[..., Tensor],
        theirs: Callable[..., Tensor],
        *inputs: Tensor,
    ) -> None:
        """Assert the same output, and the same gradient for every input."""
        inputs = tuple(each.detach().requires_grad_() for each in inputs)
        a, b = ours(*inputs), theirs(*inputs)
        assert a.shape == b.shape
        assert a.dtype == b.dtype == torch.float64
        assert a.detach().std() > 1e-2  # not equal because all is nought
        cotangent = torch.randn_like(a)
        gradients = zip(
            torch.autograd.grad(a, inputs, cotangent),
            torch.autograd.grad(b, inputs, cotangent),
            strict=True,
        )
        of_output = largest(a - b)
        of_gradient = max(largest(left - right) for left, right in gradients)
        self.record("output", of_output)
        self.record("gradient", of_gradient)
        assert of_output < TOLERANCE
        assert of_gradient < TOLERANCE


def largest(difference: Tensor) -> float:
    """The largest absolute value."""
    return difference.detach().abs().max().item()


@pytest.fixture
def bench(record_property) -> Bench:
    return Bench(record_property)


def pytest_terminal_summary(terminalreporter) -> None:
    terminalreporter.section("largest differences, and other numbers measured")
    for report in terminalreporter.stats.get("passed", []):
        if report.when == "call" and report.user_properties:
            numbers = ", ".join(f"{name} {value:.2g}" for name, value in report.user_properties)
            terminalreporter.write_line(f"{report.nodeid.removeprefix('peers/')}: {numbers}")
