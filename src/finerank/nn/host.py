"""Whether what a tensor holds may be read, the one question that tells the CPU from a device.

A device computes behind the host: to read a value, or the number of those that fulfil a condition,
is to wait for all that it was told to do. So where this says no, blocks take the form whose shapes
follow from shapes. Everything else is the same code everywhere.
"""

from torch import Tensor


def is_readable(tensor: Tensor) -> bool:
    """Whether values can be read without waiting for a device."""
    return tensor.device.type == "cpu"
