"""Columns read without pyarrow: what is refused, and edges; test_storage compares them with it."""

import pyarrow as pa
import pytest
import torch

from finerank.data.arrow_file import read_columns
from finerank.data.storage import write_columns


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "columns.arrow"
    write_columns(path, pa.record_batch({"x": pa.array([1, 2, 3])}))
    assert read_columns(path)["x"].tolist() == [1, 2, 3]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"columns\.arrow: expected a whole Arrow file"):
        read_columns(path)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1, None]),
        pa.array(["a", "b"]),
        pa.array([1, 2], pa.uint32()),
        pa.array([1, 2], pa.float16()),
        pa.array([True, False]),
    ],
    ids=["null", "text", "unsigned", "half", "boolean"],
)
def test_what_no_column_is_of_is_refused(tmp_path, array):
    path = tmp_path / "columns.arrow"
    write_columns(path, pa.record_batch({"x": array}))
    with pytest.raises(ValueError, match="x: expected signed integers or floats without nulls"):
        read_columns(path)


@pytest.mark.parametrize(("batches", "compression"), [(2, None), (1, "zstd")])
def test_another_layout_is_refused(tmp_path, batches, compression):
    path = tmp_path / "columns.arrow"
    batch = pa.record_batch({"x": pa.array([1, 2, 3])})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(str(path), batch.schema, options=options) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    with pytest.raises(ValueError, match="expected one record batch, uncompressed"):
        read_columns(path)


def test_columns_with_no_rows(tmp_path):
    path = tmp_path / "columns.arrow"
    kinds = {"x": pa.int8(), "lists": pa.large_list(pa.int32()), "v": pa.list_(pa.float32(), 3)}
    write_columns(path, pa.record_batch([pa.array([], k) for k in kinds.values()], names=[*kinds]))
    columns = read_columns(path)
    assert columns["x"].dtype is torch.int8
    assert columns["x"].shape == (0,)
    assert columns["lists"].offsets.tolist() == [0]
    assert columns["v"].shape == (0, 3)


def test_columns_are_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "columns.arrow"
    lists = pa.array([[5, 6], [], [7]], pa.large_list(pa.int32()))
    vectors = pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32(), 2))
    number = pa.array([0.5, 1.5, 2.5])
    write_columns(path, pa.record_batch({"b": lists, "a": vectors, "c": number}))
    columns = read_columns(path)
    assert [*columns] == ["b", "a", "c"]
    assert columns["b"].values.tolist() == [5, 6, 7]
    assert columns["b"].offsets.tolist() == [0, 2, 2, 3]
    assert columns["a"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert columns["c"].tolist() == [0.5, 1.5, 2.5]
