"""Windows over the event store against plain Python; durations in the unit of the times."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finerank.data.durations import as_duration
from finerank.data.events import EventStore
from finerank.data.past import Past
from finerank.data.schema import History, Schema
from finerank.data.times import as_times
from finerank.data.vocabulary import Vocabulary
from finerank.errors import FinerankError

TIMES = st.lists(st.integers(0, 9), max_size=12).map(sorted)


@given(st.lists(TIMES, min_size=1, max_size=4), st.integers(1, 4), st.sampled_from([None, 0, 3]))
def test_windows(events, max_length, max_age):
    offsets = np.cumsum([0, *map(len, events)])
    flat = np.array([time for each in events for time in each], dtype=np.int64)
    store = EventStore(torch.from_numpy(flat), None, {}, torch.from_numpy(offsets))
    asked = [(user, now) for user in range(len(events) + 1) for now in range(11)]
    users, times = (np.array(each) for each in zip(*asked, strict=True))
    starts, ends = store.window(users, times, max_length, max_age)
    for (user, now), start, end in zip(asked, starts, ends, strict=True):
        past = [t for t in (events[user] if user < len(events) else []) if t < now]
        if max_age is not None:
            past = [t for t in past if t >= now - max_age]
        assert flat[start:end].tolist() == past[-max_length:]


def test_durations():
    moments = pa.array([dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 3, 12)])  # noqa: DTZ001
    first, second = as_times(moments)
    assert second - first == as_duration("60h", numbers=False, where="x")
    assert as_duration("2d", numbers=False, where="x") == 2 * as_duration(
        "1440m", numbers=False, where="x"
    )
    assert as_duration(90, numbers=True, where="x") == 90
    with pytest.raises(FinerankError, match="x: expected a number, in the unit of log"):
        as_duration("2d", numbers=True, where="x")
    with pytest.raises(FinerankError, match="x: expected a duration such as 30m"):
        as_duration(90, numbers=False, where="x")


def test_an_age_needs_a_now():
    times = torch.tensor([3, 8])
    store = EventStore(times, None, {}, torch.tensor([0, 2]))
    keys = Vocabulary(pa.array([], pa.int64()))
    schema = Schema((), (History("seen", (), 5, max_age=2),), ("click",), "number")
    past, users = Past(keys, {"seen": store}), pa.array([7])
    assert [b.tolist() for b in past.windows(users, np.array([9]), 1, schema)["seen"]] == [[1], [2]]
    with pytest.raises(FinerankError, match="time: expected the time of the request"):
        past.windows(users, None, 1, schema)
    ordered = Past(keys, {"seen": store}, has_time=False)  # given for this request: no ages known
    assert [b.tolist() for b in ordered.windows(users, None, 1, schema)["seen"]] == [[0], [2]]
