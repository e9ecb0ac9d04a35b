from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finerank.data.arrow_file import read_columns
from finerank.data.batch import Jagged
from finerank.data.storage import ColumnWriter, read_batch

ROW = st.fixed_dictionaries(
    {
        "small": st.integers(-128, 127),
        "id": st.integers(-(2**31), 2**31 - 1),
        "big": st.integers(-(2**63), 2**63 - 1),
        "number": st.floats(width=32, allow_nan=False),
        "exact": st.floats(allow_nan=False),
        "ids": st.lists(st.integers(0, 2**31 - 1), max_size=3),
        "vector": st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2),
    }
)
SCHEMA = pa.schema(
    {
        "small": pa.int8(),
        "id": pa.int32(),
        "big": pa.int64(),
        "number": pa.float32(),
        "exact": pa.float64(),
        "ids": pa.large_list(pa.int32()),
        "vector": pa.list_(pa.float32(), 2),
    }
)


def arrays(rows):
    return {f.name: pa.array([row[f.name] for row in rows], f.type) for f in SCHEMA}


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.lists(ROW, max_size=4), max_size=4), skip=st.integers(0, 2))
def test_what_was_written_in_pieces_is_read_as_one(tmp_path_factory, pieces, skip):
    path = tmp_path_factory.mktemp("columns") / "deep" / "columns.arrow"
    with ColumnWriter(path, SCHEMA) as writer:
        for rows in pieces:
            padded = arrays([*rows[:1] * skip, *rows])  # a slice, as batches of an engine may be
            writer.append(
                {name: array.slice(len(array) - len(rows)) for name, array in padded.items()}
            )
    everything = [row for rows in pieces for row in rows]
    assert writer.rows == len(everything)
    assert read_batch(path).to_pylist() == everything
    assert [file.name for file in path.parent.iterdir()] == ["columns.arrow"]
    columns = read_columns(path)
    jagged = columns.pop("ids")
    assert isinstance(jagged, Jagged)
    bounds = jagged.offsets.tolist()
    assert bounds[0] == 0
    assert [jagged.values[a:b].tolist() for a, b in pairwise(bounds)] == [
        row["ids"] for row in everything
    ]
    for name, column in columns.items():
        assert column.tolist() == [row[name] for row in everything], name
    assert columns["vector"].shape == (len(everything), 2)
    assert columns["big"].dtype is torch.int64


def test_reading_maps_the_file_instead_of_loading_it(tmp_path):
    path = tmp_path / "columns.arrow"
    with ColumnWriter(path, pa.schema({"x": pa.int64()})) as writer:
        writer.append({"x": pa.array(np.arange(200_000))})
    before = pa.total_allocated_bytes()
    column = read_columns(path)["x"]
    assert pa.total_allocated_bytes() - before < 100_000  # of 1.6 MB
    assert column.sum().item() == 200_000 * 199_999 // 2
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(path) in maps.read_text()


def test_a_null_is_refused_with_its_column(tmp_path):
    with (
        pytest.raises(ValueError, match="x: expected no nulls and one length, found 1 nulls"),
        ColumnWriter(tmp_path / "c.arrow", pa.schema({"x": pa.int64()})) as writer,
    ):
        writer.append({"x": pa.array([1, None])})
    assert list(tmp_path.iterdir()) == []
