"""What every test shares."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small work goes faster on one thread, and the same way on every machine."""
    torch.set_num_threads(1)
