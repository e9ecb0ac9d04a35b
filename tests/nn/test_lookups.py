"""Maps of ids that repeat themselves against the same map of every row, in twice the digits."""

import pytest
import torch

from finerank.nn import lookups
from finerank.nn.kernels import library
from finerank.nn.lookups import find_repeated, map_repeated

pytestmark = pytest.mark.skipif(
    not library.is_there(), reason="no functions are compiled for this machine"
)


def test_which_columns_repeat_themselves():
    # at most three of the four rows may differ, so the second column is left out
    places = torch.tensor([[4, 2, 4, 2], [0, 1, 2, 3], [6, 6, 6, 5], [1, 3, 1, 2]])
    found = find_repeated(torch.zeros(7, 2), places)
    assert found.columns.tolist() == [0, 2, 3]
    assert found.rows.tolist() == [4, 2, 6, 5, 1, 3, 2]
    assert found.first.tolist() == [0, 2, 4, 7]
    assert found.first_vector.tolist() == [0, 2, 4]
    assert found.places.tolist() == [[0, 2, 4], [1, 2, 5], [0, 2, 4], [1, 3, 6]]


def in_turn(*columns):
    """Places of columns of ids, numbered column by column as those of a batch are."""
    first, numbered = 0, []
    for ids in columns:
        numbers = {each: first + i for i, each in enumerate(dict.fromkeys(ids))}
        numbered.append([numbers[each] for each in ids])
        first += len(numbers)
    return torch.tensor(numbered), first


def test_columns_whose_ids_lie_one_after_another_need_no_copy():
    places, count = in_turn("abab", "cdef", "gghh", "iiji")
    found = find_repeated(torch.zeros(count, 2), places)
    assert found.columns.tolist() == [0, 2, 3]
    assert found.rows is None
    assert found.first.tolist() == [0, 2, 4, 6]
    assert found.first_vector.tolist() == [0, 6, 8]
    assert found.places.tolist() == [[0, 2, 4], [1, 2, 4], [0, 3, 5], [1, 3, 4]]


def test_a_few_among_many_are_copied():
    places, count = in_turn("abab", "cdef", "ghij", "klmn")  # two of fourteen
    found = find_repeated(torch.zeros(count, 2), places)
    assert (found.columns.tolist(), found.rows.tolist()) == ([0], [0, 1])
    assert found.first_vector.tolist() == [0]


def test_columns_may_share_their_ids():
    found = find_repeated(torch.zeros(2, 2), torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]]))
    assert found.rows.tolist() == [1, 0, 0, 1]
    assert found.places.tolist() == [[0, 2], [0, 3], [1, 3], [1, 3]]


def test_there_may_be_none():
    assert find_repeated(torch.zeros(32, 2), torch.zeros(1, 4, dtype=torch.long)) is not None
    assert find_repeated(torch.zeros(33, 2), torch.zeros(1, 4, dtype=torch.long)) is None
    different = torch.arange(8).view(2, 4)
    assert find_repeated(torch.zeros(8, 2), different) is None
    assert find_repeated(torch.zeros(8, 2), different[:, :0]) is None
    repeated = torch.zeros(2, 4, dtype=torch.long)
    assert find_repeated(torch.zeros(8, 2), repeated) is not None
    assert find_repeated(torch.zeros(8, 2, dtype=torch.float64), repeated) is None
    with torch.autocast("cpu", torch.bfloat16):  # where the other way is faster, it pays later
        assert find_repeated(torch.zeros(8, 2), repeated) is None
        repeated = repeated.repeat(1, 2)
        assert find_repeated(torch.zeros(8, 2), repeated) is not None
        repeated[1] = torch.arange(8)  # and where it does for all columns
        assert find_repeated(torch.zeros(8, 2), repeated) is None


@pytest.mark.parametrize("wrong", [-1, 3])
def test_places_that_are_not_there_are_refused(wrong):
    with pytest.raises(IndexError, match="expected rows from 0 to 2, found"):
        find_repeated(torch.zeros(3, 2), torch.tensor([[0, wrong, 1, 1]]))


def test_columns_with_the_fewest_ids_are_taken_while_there_is_room(monkeypatch):
    rows = torch.arange(12)
    places = torch.stack([rows % 6, rows % 2, rows % 5, rows % 3])
    monkeypatch.setattr(lookups, "_MOST", 10)
    assert find_repeated(torch.zeros(12, 2), places).columns.tolist() == [1, 2, 3]
    monkeypatch.setattr(lookups, "_MOST", 9)
    assert find_repeated(torch.zeros(12, 2), places).columns.tolist() == [1, 3]
    monkeypatch.setattr(lookups, "_MOST", 1)
    assert find_repeated(torch.zeros(12, 2), places) is None


@pytest.fixture(params=[1, 3])
def _shares(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)


@pytest.mark.usefixtures("instructions", "_shares")
@pytest.mark.parametrize("outputs", [1, 16, 37, 100, 145])
@pytest.mark.parametrize("dim", [3, 16, 20])
@pytest.mark.parametrize("base_of", ["nothing", "a bias", "each row"])
@pytest.mark.parametrize("order", ["none", "in turn"])
def test_equals_the_map_of_every_row(outputs, dim, base_of, order):
    rows, columns, width = 40, 3, 3 * dim + 5
    places, count = torch.randint(0, 9, (columns, rows)), 9
    if order == "in turn":
        places, count = in_turn(*places.tolist())
    vectors = torch.randn(count, dim, requires_grad=True)
    weight = torch.randn(outputs, width, requires_grad=True)
    first_weight = torch.tensor([2, 2 + dim, 5 + 2 * dim])  # five columns are of something else
    bases = {
        "nothing": None,
        "a bias": torch.randn(outputs),
        "each row": torch.randn(rows, outputs),
    }
    base = bases[base_of]
    repeated = find_repeated(vectors, places)
    assert repeated.columns.tolist() == [0, 1, 2]
    assert (repeated.rows is None) == (order == "in turn")
    check(repeated, vectors, places, weight, first_weight, base)


@pytest.mark.usefixtures("instructions", "_shares")
def test_more_ids_than_a_cache_holds_are_worked_on_some_columns_at_a_time():
    rows, columns, dim = 2000, 6, 16
    ids = torch.randint(0, 1200, (columns, rows))
    ids[3] = torch.arange(rows)  # in the middle one that is left out
    places, count = in_turn(*ids.tolist())
    vectors = torch.randn(count, dim, requires_grad=True)
    weight = torch.randn(70, columns * dim, requires_grad=True)
    base = torch.randn(rows, 70, requires_grad=True)
    repeated = find_repeated(vectors, places)
    assert repeated.columns.tolist() == [0, 1, 2, 4, 5]
    assert repeated.rows is None
    check(repeated, vectors, places[[0, 1, 2, 4, 5]], weight, repeated.columns * dim, base)


def check(repeated, vectors, places, weight, first_weight, base):
    """The map and its gradients, in numbers of twice the digits."""
    leaves = [vectors, weight] if base is None else [vectors, weight, base.requires_grad_()]
    found = map_repeated(repeated, vectors, weight, first_weight, base)

    doubles = [each.detach().double().requires_grad_() for each in leaves]
    numbers = (first_weight.unsqueeze(1) + torch.arange(vectors.shape[1])).flatten()
    expected = doubles[0][places.T].flatten(1) @ doubles[1][:, numbers].T
    expected = expected if base is None else expected + doubles[2]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    upstream = torch.randn(found.shape)
    for each, other in zip(
        torch.autograd.grad(found, leaves, upstream),
        torch.autograd.grad(expected, doubles, upstream.double()),
        strict=True,
    ):
        torch.testing.assert_close(each.double(), other, rtol=1e-4, atol=1e-3)


def test_a_base_in_short_numbers_gets_a_short_gradient():
    vectors, places = torch.randn(2, 4), torch.zeros(1, 8, dtype=torch.long)
    base = torch.randn(8, 5, dtype=torch.bfloat16, requires_grad=True)
    repeated = find_repeated(vectors, places)
    found = map_repeated(repeated, vectors, torch.randn(5, 4), torch.tensor([0]), base)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert base.grad.dtype == torch.bfloat16
    assert base.grad.unique().tolist() == [1.0]


def test_without_functions_there_are_no_columns(monkeypatch):
    monkeypatch.setattr(library, "is_there", lambda: False)
    assert find_repeated(torch.zeros(8, 2), torch.zeros(2, 4, dtype=torch.long)) is None
