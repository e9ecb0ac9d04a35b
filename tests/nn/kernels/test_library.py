"""Where the compiled functions are found, and where there are none."""

import ctypes
import sys
from pathlib import Path
from platform import machine

import pytest
import torch

from finerank.nn.kernels import library

BUILT_HERE = sys.platform == "linux" and machine() == "x86_64"


@pytest.mark.skipif(not BUILT_HERE, reason="nothing is compiled on this platform")
def test_the_functions_are_compiled():
    assert library.is_there()


@pytest.mark.skipif(not BUILT_HERE, reason="nothing is compiled on this platform")
@pytest.mark.parametrize("changed", [None, "pairs.c", "common.h"])
def test_functions_of_other_sources_are_not_taken(changed, monkeypatch, tmp_path):
    for each in library._FOLDER.iterdir():
        if each.is_file():
            (tmp_path / each.name).write_bytes(each.read_bytes())
    if changed is not None:
        (tmp_path / changed).write_text("another", encoding="utf-8")
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    assert (library.functions.__wrapped__() is None) == (changed is not None)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(4)[::2], torch.zeros(2, dtype=torch.int8), torch.zeros(2, device="meta")]
)
def test_tensors_that_lie_otherwise_are_refused(wrong):
    with pytest.raises(ValueError, match="expected a whole tensor"):
        library.address(wrong)


def test_without_threads_of_torch_there_are_no_functions(monkeypatch):
    monkeypatch.setattr(library, "_threads", lambda: None)
    assert library.functions.__wrapped__() is None


@pytest.mark.parametrize(
    ("loaded", "found"),
    [
        ([], False),
        (["{torch}/lib/libgomp.so.1"], True),
        (["{torch}/lib/libgomp.so.1", "/opt/another/libgomp.so.1"], True),
        (["/opt/one/libgomp.so.1", "/opt/another/libgomp.so.1"], False),
    ],
)
def test_the_threads_are_those_of_torch(loaded, found, monkeypatch):
    home = Path(torch.__file__).parent
    lines = [f"7f-80 r-xp 00000000 fe:01 7  {path.format(torch=home)}" for path in loaded]
    opened = []

    class Library:
        GOMP_parallel = ctypes.CFUNCTYPE(None)()

        def __init__(self, path):
            opened.append(path)

    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "\n".join([*lines, "7f-80 [heap]"]))
    monkeypatch.setattr(ctypes, "CDLL", Library)
    library._threads()
    assert opened == ([f"{home}/lib/libgomp.so.1"] if found else [])
