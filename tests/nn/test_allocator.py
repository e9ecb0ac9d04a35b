import platform
import subprocess
import sys

import pytest

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
