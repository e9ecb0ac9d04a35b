"""Compiles what the package has in C, as part of building or installing it.

The compiler comes from the package index like any other requirement of the build, so that a
machine needs none of its own. Elsewhere than on Linux and x86-64 nothing is compiled, and nothing
is missed: the package then uses torch alone.
"""

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/finerank/nn/kernels")
INSTRUCTIONS = ("x86_64_v3", "x86_64_v4")  # with AVX2, with AVX-512
GLIBC = "2.28"  # the oldest that torch runs with
OPTIONS = (
    "-O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fvisibility=hidden "
    "-std=c11 -Wall -Wextra -Werror"
)


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the libraries beside their source, where an editable install finds them, too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile for each set of instructions; the wheel is of this platform then."""
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            return
        folder = Path(self.root) / FOLDER
        sources = sorted([*folder.glob("*.c"), *folder.glob("*.h")])
        digest = hashlib.sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()[:12]
        libraries = {
            folder / f"kernels_{digest}_{instructions}.so": instructions
            for instructions in INSTRUCTIONS
        }
        for old in folder.glob("*.so"):
            if old not in libraries:
                old.unlink()
        for library, instructions in libraries.items():
            if not library.exists() or library.stat().st_mtime < Path(__file__).stat().st_mtime:
                _compile(sorted(folder.glob("*.c")), library, instructions)
        build_data["artifacts"].append(f"/{FOLDER}/*.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_{GLIBC.replace('.', '_')}_x86_64"


def _compile(sources: list[Path], library: Path, instructions: str) -> None:
    target = ["-target", f"x86_64-linux-gnu.{GLIBC}", f"-march={instructions}"]
    command = [sys.executable, "-m", "ziglang", "cc", *OPTIONS.split(), *target, "-shared", "-fPIC"]
    with tempfile.TemporaryDirectory() as cache:
        caches = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        subprocess.run(  # noqa: S603
            [*command, "-s", "-o", str(library), *map(str, sources)],
            check=True,
            env=os.environ | caches,
        )
