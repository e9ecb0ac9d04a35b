"""Rows of several columns at once: the same as of each column alone."""

import pytest
import torch

from finerank.data.batch import Jagged, take
from finerank.data.columns import take_columns
from finerank.nn.kernels import library

ROWS = torch.tensor([3, 0, 3, 1])
NAN = float("nan")


@pytest.fixture
def calls(monkeypatch):
    """How many columns each call of the compiled function takes."""
    seen, call = [], library.call
    monkeypatch.setattr(library, "call", lambda *given: seen.append(given[1]) or call(*given))
    return seen


def columns():
    """Five that lie in memory as the function expects, and five that don't."""
    wide = torch.arange(8, dtype=torch.int32).view(4, 2)
    return {
        "a": torch.tensor([5, -6, 7, 8], dtype=torch.int32),
        "jagged": Jagged(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 1, 1, 3])),
        "b": torch.tensor([0.5, NAN, float("inf"), -0.0]),
        "long": torch.tensor([1, 2, 3, 2**40]),
        "c": torch.arange(4, dtype=torch.int32),
        "two numbers a row": wide.float(),
        "d": torch.arange(4, 8, dtype=torch.int32)[:],
        "every second": wide[:, 0],
        "short": torch.arange(4, dtype=torch.int8),
        "e": torch.arange(6, dtype=torch.float32)[2:],
    }


@pytest.mark.skipif(not library.is_there(), reason="no functions are compiled for this machine")
@pytest.mark.parametrize("rows", [ROWS, ROWS.int(), torch.stack([ROWS, ROWS], 1)[:, 0]])
def test_equals_each_column_alone(rows, calls):
    found = take_columns(columns(), rows, {"jagged": 5})
    assert [*found] == [*columns()]
    for name, column in columns().items():
        expected = take(column, ROWS)
        pairs = zip(found[name], expected, strict=True) if name == "jagged" else []
        for one, other in [*pairs] or [(found[name], expected)]:
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert calls == [5]


def test_without_functions_and_of_few_columns(calls, monkeypatch):
    few = {name: columns()[name] for name in "abc"}
    assert take_columns(few, ROWS, {})["a"].tolist() == [8, 5, 8, -6]
    monkeypatch.setattr(library, "is_there", lambda: False)
    assert take_columns(columns(), ROWS, {})["c"].tolist() == [3, 0, 3, 1]
    assert calls == []


@pytest.mark.skipif(not library.is_there(), reason="no functions are compiled for this machine")
def test_no_rows():
    found = take_columns(columns(), ROWS[:0], {})
    assert found["a"].tolist() == []
    assert found["b"].dtype == torch.float32


@pytest.mark.skipif(not library.is_there(), reason="no functions are compiled for this machine")
@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_row_that_is_not_there_is_refused(wrong):
    four = {name: columns()[name] for name in "abcd"}
    with pytest.raises(IndexError, match="expected rows from 0 to 3, found"):
        take_columns(four, torch.tensor([1, wrong]), {})
