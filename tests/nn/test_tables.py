"""Tables kept as one: found by name, looked up at once, saved apart."""

import pytest
import torch

from finerank.nn import tables as tables_module
from finerank.nn.kernels import library
from finerank.nn.tables import EmbeddingTables, gather

SIZES = {"user": 3, "item": 4, "tag": 2}
ROWS = torch.tensor([8, 3, 3, 0, 8, 5])


@pytest.fixture
def tables():
    return EmbeddingTables(SIZES, 2, std=1.0)


def test_each_table_is_a_part_of_one(tables):
    assert tables.first_row == {"user": 0, "item": 3, "tag": 7}
    assert torch.equal(tables["item"], tables.weight[3:7])
    assert {name: tuple(rows.shape) for name, rows in tables.items()} == {
        "user": (3, 2),
        "item": (4, 2),
        "tag": (2, 2),
    }
    with torch.no_grad():
        tables["tag"].fill_(7.0)
    assert (tables.weight == 7.0).all(dim=1).tolist() == [False] * 7 + [True] * 2


@pytest.mark.parametrize("sparse", [False, True])
def test_looks_up_the_rows_that_are_asked_for(tables, sparse):
    tables.sparse = sparse
    for rows in (ROWS, ROWS.flip(0), ROWS[:0]):
        vectors, places = tables(rows)
        assert torch.equal(vectors[places], tables.weight[rows])
        assert len(vectors) == (len(rows.unique()) if sparse else 9)


def test_a_row_in_use_stands_once_and_has_the_gradient_of_all_its_uses(tables):
    tables.sparse = True
    upstream = torch.randn(6, 2)
    vectors, places = tables(ROWS)
    (vectors[places] * upstream).sum().backward()
    assert tables.weight.grad is None
    rows, leaf, _ = tables.in_use
    assert sorted(rows.tolist()) == [0, 3, 5, 8]
    for row, gradient in zip(rows.tolist(), leaf.grad, strict=True):
        torch.testing.assert_close(gradient, upstream[row == ROWS].sum(dim=0))


def test_scoring_leaves_no_trace(tables):
    tables.sparse = True
    with torch.no_grad():
        vectors, places = tables(ROWS)
    assert vectors is tables.weight
    assert torch.equal(places, ROWS)
    assert tables.in_use is None


def test_gathers_several_lists_with_one_gradient():
    vectors = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    places = (torch.tensor([4, 0, 4]), torch.tensor([], dtype=torch.int64), torch.tensor([0, 1]))
    for found, each in zip(gather(vectors, places), places, strict=True):
        assert torch.equal(found, vectors[each])
    assert torch.autograd.gradcheck(lambda v: gather(v, places), vectors)


def test_tables_are_saved_apart_under_their_names(tables):
    state = tables.state_dict(prefix="model.")
    assert list(state) == ["model.user", "model.item", "model.tag"]
    assert all(torch.equal(state[f"model.{name}"], rows) for name, rows in tables.items())
    other = EmbeddingTables(SIZES, 2, std=1.0)
    other.load_state_dict(tables.state_dict())
    assert torch.equal(other.weight, tables.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": None}, 'Missing key.*"item"'),
        ({"item": torch.zeros(5, 2)}, r"item: found \(5, 2\), expected \(4, 2\)"),
        ({"price": torch.zeros(2)}, 'Unexpected key.*"price"'),
    ],
)
def test_says_which_table_does_not_fit(tables, change, message):
    state = {
        name: rows for name, rows in (tables.state_dict() | change).items() if rows is not None
    }
    with pytest.raises(RuntimeError, match=message):
        tables.load_state_dict(state)


@pytest.mark.parametrize("compiled", [True, False])
def test_the_order_of_rows_in_use_is_the_same_each_time(compiled, monkeypatch):
    """That of their first use; without the compiled function of their last."""
    rows = torch.randint(0, 300, (40_000,))
    tables = EmbeddingTables({"a": 300}, 4, std=1.0)
    tables.sparse = True
    if compiled:
        expected = list(dict.fromkeys(rows.tolist()))
    else:
        monkeypatch.setattr(library, "is_there", lambda: False)
        expected = list(dict.fromkeys(rows.tolist()[::-1]))[::-1]
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for _ in range(50):
            tables(rows)
            assert tables.in_use[0].tolist() == expected
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not library.is_there(), reason="no functions are compiled for this machine")
@pytest.mark.parametrize("size", [1, 2**20, 2**40])
@pytest.mark.parametrize("count", [1, 2, 3000])
@pytest.mark.parametrize("step", [1, 2**8, 2**30 + 1])
def test_rows_are_numbered_wherever_they_lie(size, count, step):
    """Far from each other, at equal distances, again and again."""
    asked = torch.randint(0, count, (count,)) * step % size
    rows, places = torch.empty_like(asked), torch.empty_like(asked)
    different = torch.empty(1, dtype=torch.int64)
    library.call("rows_in_use", count, asked, size, rows, places, different)
    found = rows[: int(different)]
    assert found.tolist() == list(dict.fromkeys(asked.tolist()))
    assert torch.equal(found[places], asked)


@pytest.mark.skipif(not library.is_there(), reason="no functions are compiled for this machine")
def test_few_rows_are_numbered_wherever_they_lie():
    """Of any two some are looked for in the same place, and in the last there is."""
    different = torch.empty(1, dtype=torch.int64)
    for first in range(0, 2**20, 977):
        asked = torch.tensor([first, first + 5, first])
        rows, places = torch.empty_like(asked), torch.empty_like(asked)
        library.call("rows_in_use", 3, asked, 2**21, rows, places, different)
        assert (int(different), places.tolist()) == (2, [0, 1, 0])


@pytest.mark.parametrize("wrong", [-1, 9])
def test_rows_that_are_not_there_are_refused(tables, wrong):
    tables.sparse = True
    with pytest.raises(IndexError):
        tables(torch.tensor([0, wrong, 3]))


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("dim", [1, 16, 37])
@pytest.mark.parametrize("threads", [1, 3])
def test_vectors_in_use_are_copies_of_the_rows(dim, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(tables_module, "_FEWEST", 8)
    tables = EmbeddingTables({"all": 100}, dim, std=1.0)
    tables.sparse = True
    asked = torch.randint(0, 100, (150,))
    vectors, places = tables(asked)
    assert torch.equal(vectors[places], tables.weight[asked])
    assert torch.equal(tables.in_use.rows[places], asked)
    with torch.no_grad():
        vectors.zero_()
    assert tables.weight.abs().min() > 0


def test_the_vectors_of_the_step_before_are_let_go_before_others_are_made(tables):
    held = []
    tables.sparse = True
    tables.catch_up = lambda *_: held.append(tables.in_use)
    for _ in range(2):
        tables(torch.tensor([0, 1]))
    assert held == [None, None]
    assert tables.in_use is not None
