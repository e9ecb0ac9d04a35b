"""Answers cut into even pieces, whatever the engine gave."""

import pyarrow as pa
import pytest

from finerank.data.engine import even_pieces


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
