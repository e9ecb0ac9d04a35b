"""Blocks in the form that a device gets, on the CPU: the same numbers, and nothing read."""

import pytest
import torch

from finerank.nn import host
from finerank.nn.jagged import expand_ranges, is_one_each
from finerank.nn.pair_linear import pair_linear
from finerank.nn.pairs import pairs_of, weighted_steps
from finerank.nn.tables import EmbeddingTables, gather

ROWS = torch.tensor([8, 3, 3, 0, 8, 5, 8])


@pytest.fixture
def unreadable(monkeypatch):
    monkeypatch.setattr(host, "is_readable", lambda tensor: False)


def test_the_cpu_is_readable():
    assert host.is_readable(torch.zeros(1))
    assert not host.is_readable(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("rows", [ROWS, ROWS.flip(0), ROWS[:0]])
def test_equal_rows_have_one_place_and_one_gradient(unreadable, rows):
    tables = EmbeddingTables({"one": 4, "other": 5}, 2, std=1.0)
    tables.sparse = True
    vectors, places = tables(rows)
    assert torch.equal(vectors[places], tables.weight[rows])
    assert len(vectors) == len(rows)  # known without asking
    upstream = torch.randn(len(rows), 2)
    (gather(vectors, [places])[0] * upstream).sum().backward()
    in_use = tables.in_use
    assert torch.equal(in_use.rows, rows)
    for row, gradient in zip(rows.tolist(), in_use.gradient(), strict=True):
        torch.testing.assert_close(gradient, upstream[row == rows].sum(dim=0))


def test_ranges_of_a_known_size(unreadable):
    starts, lengths = torch.tensor([5, 0, 2]), torch.tensor([2, 0, 3])
    for known, unknown in zip(
        expand_ranges(starts, lengths, size=5), expand_ranges(starts, lengths), strict=True
    ):
        assert torch.equal(known, unknown)


def test_whether_each_request_has_one_candidate_is_not_asked(unreadable):
    assert not is_one_each(torch.arange(3), 3)


def test_pairs_in_one_part(histories, monkeypatch):
    """With their number known, as with it read and cut into parts of the cache."""
    of_candidate = histories.request_of_candidate
    leaves = [torch.randn(shape, dtype=torch.float64) for shape in [(6, 2), (6, 3), (4, 7), (4,)]]
    weights = torch.randn(11, dtype=torch.float64)

    def run():
        given = [leaf.clone().requires_grad_() for leaf in [*leaves, weights]]
        pairs = pairs_of(histories.offsets, of_candidate, num_pairs=11)
        hidden = pair_linear(*given[:4], pairs)
        sums = weighted_steps(given[4], given[1], pairs)
        (hidden.sin().sum() + sums.sin().sum()).backward()
        return [hidden, sums, *(leaf.grad for leaf in given)]

    expected = run()
    monkeypatch.setattr(host, "is_readable", lambda tensor: False)
    for found, each in zip(run(), expected, strict=True):
        torch.testing.assert_close(found, each)
