"""In which type autocast computes matrix products on a CPU."""

import torch
from torch import Tensor

from finerank.nn import host


def short_dtype(x: Tensor) -> torch.dtype | None:
    """The type of the products of a tensor where they are short; else None."""
    if host.is_readable(x) and torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return None
