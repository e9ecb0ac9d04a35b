import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finerank.nn.jagged import (
    expand_ranges,
    lengths_of,
    pair_steps,
    row_of_value,
    segment_softmax,
    segment_sum,
    spread,
)

index_dtypes = st.sampled_from([torch.int32, torch.int64])
lengths_lists = st.lists(st.integers(0, 4), max_size=6)


def offsets_of(lengths, dtype=torch.int64):
    return torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)], dtype=dtype)


@settings(deadline=None)
@given(lengths_lists, index_dtypes)
def test_lengths_and_rows_undo_offsets(lengths, dtype):
    offsets = offsets_of(lengths, dtype)
    assert lengths_of(offsets).tolist() == lengths
    expected = [row for row, length in enumerate(lengths) for _ in range(length)]
    assert row_of_value(offsets, sum(lengths)).tolist() == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=6), index_dtypes)
def test_expand_ranges_is_a_loop_over_range(ranges, dtype):
    starts = torch.tensor([start for start, _ in ranges], dtype=dtype)
    lengths = torch.tensor([length for _, length in ranges], dtype=dtype)
    positions, offsets = expand_ranges(starts, lengths)
    expected = [i for start, length in ranges for i in range(start, start + length)]
    assert positions.tolist() == expected
    assert offsets.tolist() == offsets_of([length for _, length in ranges]).tolist()
    assert positions.dtype == offsets.dtype == torch.int64


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=6).filter(
        lambda ranges: any(length for _, length in ranges)
    ),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=3),
    st.integers(0, 9),
)
def test_ranges_that_fill_up_repeat_the_last_position_that_counts(ranges, others, more):
    positions, offsets = expand_ranges(
        *torch.tensor([*ranges, *others]).unbind(1),
        size=sum(length for _, length in ranges) + more,
        count=torch.tensor(len(ranges)),
    )
    expected = [i for start, length in ranges for i in range(start, start + length)]
    assert positions.tolist() == expected + more * expected[-1:]
    lengths = offsets.diff().tolist()
    assert lengths[: len(ranges)] == [length for _, length in ranges]
    assert sum(lengths) == len(positions)
    assert max(lengths[len(ranges) :]) <= min(lengths[len(ranges) :]) + 1


@settings(deadline=None)
@given(st.data(), lengths_lists.filter(len), index_dtypes, index_dtypes)
def test_pair_steps_is_a_loop_over_candidates_and_steps(data, lengths, dtype, candidate_dtype):
    requests = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8))
    offsets = offsets_of(lengths, dtype)
    steps, pair_offsets = pair_steps(offsets, torch.tensor(requests, dtype=candidate_dtype))
    expected = [step for r in requests for step in range(int(offsets[r]), int(offsets[r + 1]))]
    assert steps.tolist() == expected
    assert pair_offsets.tolist() == offsets_of([lengths[r] for r in requests]).tolist()
    assert steps.dtype == pair_offsets.dtype == torch.int64


@settings(deadline=None)
@given(lengths_lists, st.sampled_from([(), (1,), (3,)]), index_dtypes)
def test_segment_sum_is_a_loop_over_rows(lengths, width, dtype):
    values = torch.randn(sum(lengths), *width, dtype=torch.float64)
    sums = segment_sum(values, offsets_of(lengths, dtype))
    assert sums.shape == (len(lengths), *width)
    for row, part in zip(sums, values.split(lengths), strict=True):
        torch.testing.assert_close(row, part.sum(0))


@settings(deadline=None)
@given(lengths_lists, index_dtypes)
def test_segment_softmax_is_a_loop_over_rows(lengths, dtype):
    logits = 5 * torch.randn(sum(lengths), dtype=torch.float64)
    shares = segment_softmax(logits, offsets_of(lengths, dtype))
    expected = [part.softmax(0) for part in logits.split(lengths)]
    torch.testing.assert_close(shares, torch.cat([*expected, logits[:0]]))


def test_segment_softmax_by_hand():
    # 1 and 3 of 4; nothing; two alike, though exp(1000) overflows; one alone, though exp(-1000)
    # underflows.
    logits = torch.tensor([0, torch.tensor(3.0).log(), 1000, 1000, -1000])
    shares = segment_softmax(logits, torch.tensor([0, 2, 2, 4, 5]))
    assert shares.tolist() == pytest.approx([0.25, 0.75, 0.5, 0.5, 1.0])


@pytest.mark.parametrize("function", [segment_sum, segment_softmax])
def test_gradients(function):
    values = torch.randn(5, dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 2, 2, 5])
    assert torch.autograd.gradcheck(lambda v: function(v, offsets), (values,))


def test_spread_copies_only_where_a_request_has_not_one_candidate():
    requests = torch.randn(3, 2)
    assert spread(requests, torch.arange(3)) is requests
    for of_candidate in ([0, 2, 1], [0, 1, 1], [0, 1], [2, 2, 1, 0], []):
        places = torch.tensor(of_candidate, dtype=torch.int64)
        assert torch.equal(spread(requests, places), requests[places])


def test_segment_sum_passes_the_gradient_of_a_row_to_its_values():
    values = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 2, 2, 5])
    assert torch.autograd.gradcheck(lambda v: segment_sum(v, offsets), values)
