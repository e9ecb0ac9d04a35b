import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finerank.data import loader as module
from finerank.data.examples import Examples
from finerank.data.loader import Loader
from finerank.data.schema import Feature, Schema

SCHEMA = Schema((Feature("row", "item", "number", "log", "row", 1),), (), ("click",))


def examples(sizes):
    """Requests of the given sizes; the candidate feature and the label number the candidates."""
    first = torch.tensor([0, *sizes]).cumsum(0)
    total = int(first[-1])
    return Examples(
        schema=SCHEMA,
        users=None,
        items=None,
        stores={},
        user=torch.arange(len(sizes), dtype=torch.int32) + 1,
        request={},
        windows={},
        first_candidate=first,
        item=None,
        candidate={"row": torch.arange(total, dtype=torch.float32)},
        labels=[torch.arange(total, dtype=torch.float32) + 0.5],
    )


def rows(batch):
    return batch.candidate["row"].int().tolist()


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=40),
    batch_size=st.integers(1, 12),
    shuffle=st.booleans(),
    block=st.sampled_from([1, 3, 1024]),
)
def test_every_candidate_comes_once_and_no_request_is_divided(sizes, batch_size, shuffle, block):
    """In one part, and in parts of a few requests as large sets have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        patch.setattr(module, "_BLOCKS_AT_A_TIME", 2 if block < 1024 else 1024)
        batches = list(Loader(examples(sizes), batch_size=batch_size, shuffle=shuffle))
    assert sorted(row for batch in batches for row in rows(batch)) == list(range(sum(sizes)))
    requests = [user for batch in batches for user in batch.user.tolist()]
    assert sorted(requests) == list(range(1, len(sizes) + 1))
    if not shuffle:
        assert [row for batch in batches for row in rows(batch)] == list(range(sum(sizes)))
    for number, batch in enumerate(batches):
        own = [sizes[user - 1] for user in batch.user.tolist()]
        expected = [place for place, size in enumerate(own) for _ in range(size)]
        assert batch.request_of_candidate.tolist() == expected
        assert batch.labels[:, 0].tolist() == [row + 0.5 for row in rows(batch)]
        assert len(rows(batch)) < batch_size + max(sizes)
        if number < len(batches) - 1:
            assert len(rows(batch)) > batch_size - max(sizes)


def test_requests_of_one_candidate_fill_batches_exactly():
    sizes = [len(rows(batch)) for batch in Loader(examples([1] * 25), batch_size=10)]
    assert sizes == [10, 10, 5]


def test_each_epoch_has_an_order_of_its_own_that_the_seed_decides():
    loader, again, other = (
        Loader(examples([2] * 50), batch_size=10, shuffle=True, seed=seed) for seed in (3, 3, 4)
    )
    first, second = ([rows(batch) for batch in loader] for _ in range(2))
    assert first != second
    assert [[rows(batch) for batch in again] for _ in range(2)] == [first, second]
    assert [rows(batch) for batch in other] != first


@pytest.mark.parametrize("shuffle", [True, False])
def test_no_requests_give_no_batches(shuffle):
    assert list(Loader(examples([]), batch_size=4, shuffle=shuffle)) == []


def test_a_large_set_is_shuffled_block_by_block(monkeypatch):
    """What a batch reads lies in few blocks; over the passes every request meets every other."""
    monkeypatch.setattr(module, "_BLOCK", 10)
    monkeypatch.setattr(module, "_BLOCKS_AT_A_TIME", 5)
    loader = Loader(examples([1] * 1000), batch_size=50, shuffle=True)
    first, second = ([rows(batch) for batch in loader] for _ in range(2))
    assert first != second
    for batch in first:
        assert len(batch) == 50
        assert len({row // 10 for row in batch}) <= 5
        assert batch != sorted(batch)
    neighbours = [{row // 10 for row in batch} for batch in first + second]
    assert max(max(each) - min(each) for each in neighbours) > 50


def test_an_order_is_of_short_numbers_and_a_batch_of_long_ones():
    loader = Loader(examples([1] * 30), batch_size=10, shuffle=True)
    assert {order.dtype for order in loader._orders()} == {torch.int32}
    asked = [requests.dtype for requests in loader._cut(loader._orders())]
    assert asked == [torch.int64] * 3


def test_one_batch_needs_no_thread():
    loader = Loader(examples([2, 3]), batch_size=5)
    threads = threading.active_count()
    batches = iter(loader)
    assert rows(next(batches)) == [0, 1, 2, 3, 4]
    assert threading.active_count() == threads
    assert list(batches) == []


def test_a_shuffled_batch_goes_from_short_histories_to_long_ones(made):
    steps = [3, 0, 7, 1, 2, 9, 4, 6]
    given = made.examples(made.schemas["every type"], candidates=[1] * 8, steps=steps)
    (shuffled,) = Loader(given, batch_size=8, shuffle=True)
    first, second = (each.offsets.diff().tolist() for each in shuffled.histories.values())
    assert first == sorted(steps)
    assert second == [max(0, length - 1) for length in first]
    (in_order,) = Loader(given, batch_size=8)
    assert next(iter(in_order.histories.values())).offsets.diff().tolist() == steps
