"""MovieLens-100K as three Parquet files, from a local copy or from the package that ships it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from finerank.errors import FinerankError

PACKAGE = "recbole==1.2.1"  # its wheel holds the data set
FILES = ("interactions.parquet", "users.parquet", "items.parquet")
_ATOMIC = {"interactions": "ml-100k.inter", "users": "ml-100k.user", "items": "ml-100k.item"}


def cache_folder() -> Path:
    """Where downloads are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "finerank"


def find_movielens() -> Path | None:
    """A folder with the three files, or None where they can't be had.

    The folder that the environment variable FINERANK_DATA names comes first, then the cache, then
    the package, downloaded with pip.

    Raises:
        FinerankError: FINERANK_DATA names a folder without MovieLens-100K.
    """
    if local := os.environ.get("FINERANK_DATA"):
        for folder in (Path(local), Path(local) / "ml100k", Path(local) / "ml-100k"):
            if _is_complete(folder):
                return folder
            if all((folder / name).is_file() for name in _ATOMIC.values()):
                target = cache_folder() / "local-ml100k"
                _convert({k: (folder / v).read_bytes() for k, v in _ATOMIC.items()}, target)
                return target
        raise FinerankError(
            "FINERANK_DATA",
            expected=f"a folder with {', '.join(FILES)} or {', '.join(_ATOMIC.values())}",
            found=local,
        )
    folder = cache_folder() / "ml100k"
    if _is_complete(folder) or _download(folder):
        return folder
    return None


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _download(folder: Path) -> bool:
    """Get the package's wheel with pip and convert what it holds."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--dest", temporary, PACKAGE]
        environment = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
        done = subprocess.run(command, check=False, capture_output=True, env=environment)  # noqa: S603
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            return False
        with zipfile.ZipFile(wheels[0]) as wheel:
            base = "recbole/dataset_example/ml-100k"
            _convert({k: wheel.read(f"{base}/{v}") for k, v in _ATOMIC.items()}, folder)
    return True


def _convert(files: dict[str, bytes], folder: Path) -> None:
    """Write tab-separated files whose header holds ``name:type`` as Parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"timestamp": "timestamp_s", "movie_title": "title", "class": "genres"}
    for kind, content in files.items():
        parse = pa.csv.ParseOptions(delimiter="\t", quote_char=False)
        table = pa.csv.read_csv(io.BytesIO(content), parse_options=parse)
        columns = [column.partition(":")[0] for column in table.column_names]
        table = table.rename_columns([names.get(column, column) for column in columns])
        if "timestamp_s" in table.column_names:
            place = table.column_names.index("timestamp_s")
            seconds = pc.cast(table["timestamp_s"], pa.int64())
            table = table.set_column(place, "timestamp_s", seconds)
        unfinished = folder / f".{kind}.unfinished"
        pq.write_table(table, unfinished)
        unfinished.rename(folder / f"{kind}.parquet")
