"""The losses of the first ten steps are those of the file that `golden.py` wrote."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def golden():
    spec = importlib.util.spec_from_file_location("golden", HERE / "golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["dnn", "din"])
def test_ten_steps(golden, name):
    expected = json.loads((HERE / "golden.json").read_text())["losses_nats"][name]
    assert len(expected) == 10
    torch.testing.assert_close(
        torch.tensor(golden.curve(name)), torch.tensor(expected), rtol=0, atol=1e-5
    )
