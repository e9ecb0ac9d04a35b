"""The engine's memory; its answers cut into even pieces, however it gave them."""

import pyarrow as pa
import pytest

from finerank.data.engine import even_pieces, open_engine


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ([], []),
        ([0], []),
        ([10], [4, 4, 2]),
        ([1, 1, 1], [3]),
        ([3, 0, 5, 4], [4, 4, 4]),
        ([2, 9, 1], [4, 4, 4]),
        ([4], [4]),
    ],
)
def test_even_pieces(given, sizes):
    numbers = iter(range(100))
    pieces = [
        pa.record_batch({"n": pa.array([next(numbers) for _ in range(n)], pa.int64())})
        for n in given
    ]
    found = [piece.column("n").to_pylist() for piece in even_pieces(pieces, 4)]
    assert [len(piece) for piece in found] == sizes
    assert [n for piece in found for n in piece] == list(range(sum(given)))


@pytest.mark.parametrize(
    ("memory", "expected"), [("2GB", "953.6 MiB"), ("600MB", "286.1 MiB"), ("0.5GB", "238.4 MiB")]
)
def test_what_the_process_itself_needs_is_left_to_it(tmp_path, memory, expected):
    with open_engine(tmp_path / "engine", memory) as engine:
        (found,) = engine.raw.raw_sql("SELECT current_setting('memory_limit')").fetchone()
    assert found == expected
