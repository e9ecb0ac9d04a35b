"""Rows of parts: as a whole, spread, side by side, and mapped by their parts."""

import pytest
import torch

from finerank.nn import joined, lookups, products
from finerank.nn.joined import Joined, Looked, beside, linear, spread, whole, width_of
from finerank.nn.kernels import library

VECTORS = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def rows():
    """Two columns of ids, a number, and one more column; six numbers and one in all."""
    first = Looked(VECTORS, torch.tensor([[0, 2], [1, 1]]))
    return Joined([first, torch.tensor([[7.0], [8.0]]), Looked(VECTORS, torch.tensor([[1, 0]]))])


WHOLE = [[1.0, 2.0, 3.0, 4.0, 7.0, 3.0, 4.0], [5.0, 6.0, 3.0, 4.0, 8.0, 1.0, 2.0]]


def test_the_whole():
    assert rows().whole.tolist() == WHOLE
    assert (len(rows()), rows().width) == (2, 7)


def test_spread_to_candidates():
    of_candidates = spread(rows(), torch.tensor([1, 1, 0]))
    assert of_candidates.whole.tolist() == [WHOLE[1], WHOLE[1], WHOLE[0]]
    same = rows()
    assert spread(same, torch.tensor([0, 1])) is same
    assert spread(torch.tensor([[3.0], [4.0]]), torch.tensor([1, 1])).tolist() == [[4.0], [4.0]]


def test_side_by_side():
    left, right = rows(), Joined([torch.tensor([[9.0], [10.0]])])
    both = beside(left, right)
    assert both.whole.tolist() == [[*WHOLE[0], 9.0], [*WHOLE[1], 10.0]]
    assert both.width == 8
    empty = Joined([torch.zeros(2, 0)])
    assert beside(left, empty) is left
    assert beside(empty.whole, left) is left
    tensor = torch.ones(2, 1)
    assert beside(left, tensor).whole[:, 7:].tolist() == [[1.0], [1.0]]
    assert torch.equal(beside(tensor, tensor), torch.ones(2, 2))


def test_what_one_has_looked_up_serves_both(monkeypatch):
    looked_up, gather = [], joined.gather
    monkeypatch.setattr(joined, "gather", lambda *given: looked_up.append(1) or gather(*given))
    left = rows()
    both = beside(left, rows())
    assert len(both.whole[0]) == 14
    assert left.whole.tolist() == WHOLE
    assert len(looked_up) == 2


def test_parts_that_are_there_are_copied_once():
    left, right = (Joined([torch.tensor([[x], [x + 1]]), torch.zeros(2, 1)]) for x in (3.0, 7.0))
    assert beside(left, right).whole.tolist() == [[3.0, 0.0, 7.0, 0.0], [4.0, 0.0, 8.0, 0.0]]
    assert "whole" not in {**vars(left), **vars(right)}


def test_tensors_are_rows_too():
    x, weight = torch.randn(3, 2), torch.randn(4, 2)
    assert whole(x) is x
    assert whole(rows()).tolist() == WHOLE
    assert (width_of(x), width_of(rows())) == (2, 7)
    assert torch.equal(linear(x, weight), x @ weight.T)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
@pytest.mark.parametrize("numbers", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.skipif(not library.is_there(), reason="no functions are compiled for this machine")
def test_a_map_by_parts_is_that_of_the_whole(kept, numbers, bias, monkeypatch):
    """Some columns are looked up after the map, the others and the numbers before."""
    monkeypatch.setattr(joined, "_WORTH", 0)
    table = torch.randn(90, 4, requires_grad=True)
    few = torch.randint(0, 3, (kept, 60))
    many = torch.randperm(60).expand(3 - kept, -1)
    places = torch.cat([few, many + 30])[[1, 2, 0]]  # in no order of theirs
    parts = [Looked(table, places[:2]), Looked(table, places[2:])]
    if numbers:
        parts.insert(1, torch.randn(60, 5, requires_grad=True))
    x = Joined(parts)
    weight = torch.randn(7, x.width, requires_grad=True)
    shift = torch.randn(7, requires_grad=True) if bias else None
    products_of, maps_of = products.linear, joined.map_repeated
    inputs, mapped = [], []
    monkeypatch.setattr(
        products, "linear", lambda x, *given: inputs.append(x.shape[1]) or products_of(x, *given)
    )
    monkeypatch.setattr(
        joined,
        "map_repeated",
        lambda found, *given: mapped.append(len(found.columns)) or maps_of(found, *given),
    )

    found = linear(x, weight, shift)

    dense = 4 * (3 - kept) + 5 * numbers
    assert inputs == ([dense] if dense else [])
    assert mapped == ([kept] if kept else [])
    expected = products_of(Joined(parts).whole, weight, shift)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    leaves = [table, weight, *([shift] if bias else []), *([parts[1]] if numbers else [])]
    upstream = torch.randn(60, 7)
    for each, other in zip(
        torch.autograd.grad(found, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(each, other, rtol=1e-4, atol=1e-4)


def test_small_maps_look_for_nothing(monkeypatch):
    monkeypatch.setattr(joined, "find_repeated", None)
    weight = torch.randn(5, 7)
    torch.testing.assert_close(rows().linear(weight), torch.tensor(WHOLE) @ weight.T)


@pytest.mark.skipif(not library.is_there(), reason="no functions are compiled for this machine")
def test_columns_are_looked_for_once(monkeypatch):
    monkeypatch.setattr(joined, "_WORTH", 0)
    searched, find = [], lookups.find_repeated
    monkeypatch.setattr(joined, "find_repeated", lambda *given: searched.append(1) or find(*given))
    x = rows()
    for _ in range(2):
        x.linear(torch.randn(5, 7))
    assert len(searched) == 1


@pytest.mark.parametrize("outputs", [16, 17])
def test_few_outputs_are_added_up_part_by_part(outputs, monkeypatch):
    x = Joined([torch.randn(4, 2), torch.randn(4, 3)])
    weight, shift = torch.randn(outputs, 5), torch.randn(outputs)
    expected = torch.cat([*x.parts], dim=1) @ weight.T + shift
    seen, products_of = [], products.linear
    monkeypatch.setattr(
        products, "linear", lambda x, *given: seen.append(x.shape[1]) or products_of(x, *given)
    )
    torch.testing.assert_close(x.linear(weight, shift), expected)
    assert seen == ([2, 3] if outputs == 16 else [5])
