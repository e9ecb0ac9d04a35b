"""The training cases side by side on a CUDA device, in one command.

python benchmarks/speed/gpu.py [CASE ...] [--rounds 3] [--only finerank fuxictr]

The same cases, sides and page as `run.py`, with the models on the device: results-cuda.json,
RESULTS-cuda.md and results-cuda.png. Evaluation and preparation run on the CPU and are left out.
All compute in float32, finerank a second time with its default settings. It has the training set on
the device where it fits, and makes the batches there: in its step alone as well. The clock waits
for the device where counting begins and ends.
"""

from __future__ import annotations

import sys

import torch
from cases import CASES, TRAINING, chosen
from run import parser, run


def main() -> None:
    """Run what the command line names, or say why it can't."""
    given = parser().parse_args()
    if not torch.cuda.is_available():
        sys.exit(
            "expected a CUDA device, found none: torch "
            f"{torch.__version__} sees only the CPU. Install a torch with CUDA in this environment "
            "on a machine with an NVIDIA GPU, or run benchmarks/speed/run.py for the CPU."
        )
    cases = chosen(given.cases) if given.cases else CASES
    given.cases = [case.name for case in cases if case.measures == TRAINING]
    given.device, given.device_name = "cuda", torch.cuda.get_device_name()
    run(given)


if __name__ == "__main__":
    main()
