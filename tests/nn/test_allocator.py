import platform
import subprocess
import sys

import pytest
import torch

from finerank.nn import allocator

FAULTS = """
import resource, sys, torch
from finerank.nn.allocator import keep_freed_memory, map_large_blocks
if sys.argv[1] != "as it is":
    keep_freed_memory()
if sys.argv[1] == "mapped again":
    map_large_blocks()
x = torch.zeros(2**23)  # 32 MiB
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        y = x + 1
        z = y + 1
        del y, z
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_was_freed_is_not_cleared_again():
    found = {}
    for how in ("as it is", "kept", "mapped again"):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True)
        found[how] = int(done.stdout)
    assert found["kept"] < found["as it is"] / 10
    assert found["mapped again"] > found["as it is"] / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.bfloat16])
def test_tensors_in_large_pages_are_as_any_other(dtype):
    for shape in [(0, 3), (128, 2), (2**20, 2)]:
        found = allocator.zeros(shape, dtype)
        assert torch.equal(found, torch.zeros(shape, dtype=dtype))
        found += 1  # it may be written to
        assert (found == 1).all()
        room = allocator.empty(shape, dtype)
        assert (room.shape, room.dtype, room.is_contiguous()) == (found.shape, dtype, True)


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is known of a process's pages")
def test_tables_ask_for_large_pages():
    """As the system is told; whether it has any is its own affair."""
    script = """
from pathlib import Path
from finerank.nn.tables import EmbeddingTables
tables = EmbeddingTables({"all": 2**20}, 16, std=1.0)
address = tables.weight.data_ptr() + tables.weight.nbytes // 2
inside = False
for line in Path("/proc/self/smaps").read_text().splitlines():
    first = line.split()[0]
    if "-" in first and not first.endswith(":"):
        begin, end = (int(each, 16) for each in first.split("-"))
        inside = begin <= address < end
    elif inside and first == "VmFlags:":
        print("hg" in line.split())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert done.stdout == "True\n"
