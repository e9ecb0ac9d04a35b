"""Write the splits of the benchmark: python benchmarks/census/split.py DATA OUT.

DATA holds ``train.parquet`` and ``test.parquet``. OUT gets ``official/`` (the official training
rows, and the official test rows halved into valid and test, as in the MMoE paper) and
``all-columns/`` (the official test rows, two thirds to train on and a sixth each to choose and to
test).
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def main(data: Path, out: Path) -> None:
    """Write both splits."""
    table = pq.read_table(data / "test.parquet")
    order = np.random.default_rng(0).permutation(table.num_rows)
    half, sixth = len(order) // 2, len(order) // 6
    parts = {
        "official/valid": order[:half],
        "official/test": order[half:],
        "all-columns/valid": order[:sixth],
        "all-columns/test": order[sixth : 2 * sixth],
        "all-columns/train": order[2 * sixth :],
    }
    columns = pq.read_schema(data / "train.parquet").names
    for name, rows in parts.items():
        path = out / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = table.take(rows)
        pq.write_table(part.select(columns) if name.startswith("official") else part, path)
    shutil.copyfile(data / "train.parquet", out / "official" / "train.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
