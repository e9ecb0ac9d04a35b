"""Where training runs, and in which precision."""

from __future__ import annotations

from pathlib import Path

import torch

from finerank.errors import FinerankError

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def find_device(setting: str) -> torch.device:
    """The device that ``training.device`` means.

    Args:
        setting: ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` is a CUDA device where torch sees one,
            else the CPU.

    Raises:
        FinerankError: torch does not see the device.
    """
    device = torch.device(_default() if setting == "auto" else setting)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        seen = ", ".join(f"cuda:{index}" for index in range(count))
        raise FinerankError(
            "training.device",
            expected=f"a device that torch {torch.__version__} sees: {seen or 'only the CPU'}",
            found=setting,
            fix="Leave it out: training takes a GPU where there is one. A torch without CUDA sees "
            "none.",
        )
    return device


def _default() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: torch.device) -> str:
    """What people call a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def find_precision(setting: str, device: torch.device) -> torch.dtype:
    """The type of matrix products that ``training.precision`` means: float32 or bfloat16.

    Args:
        setting: ``float32`` or ``bfloat16``; ``auto`` is bfloat16 where the device computes in it.
        device: where training runs.
    """
    short = setting == "bfloat16" or (setting == "auto" and _computes_bfloat16(device))
    return torch.bfloat16 if short else torch.float32


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether in hardware: emulated it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return not _BFLOAT16_FLAGS.isdisjoint(_cpu_flags())


def _cpu_flags() -> set[str]:
    """What the CPU says that it can do; nothing where the system doesn't tell (not Linux)."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return set(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return set()
