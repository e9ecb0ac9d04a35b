"""Drawing negatives: none that was met, exact chances, no giving up while items are left."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finerank.data import sampling
from finerank.data.sampling import Met, NegativeSampler


def sampler(weights, met=(), first=None, groups=None):
    """``met`` are pairs of a user and an item."""
    pairs = np.array([u * len(weights) + i for u, i in met], dtype=np.int64)
    order = np.argsort(pairs)
    times = None if first is None else np.array(first)[order]
    return NegativeSampler(
        np.array(weights, dtype=float),
        Met(pairs[order], times),
        None if groups is None else np.array(groups),
    )


def draw(drawer, users, items, count, times=None, seed=0):
    users, items = np.array(users), np.array(items)
    when = None if times is None else np.array(times)
    return drawer.draw(users, items, when, count, np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=2, max_size=9),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 8))),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), max_size=12),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from([0, 1, 64]),
)
def test_every_rule(weights, met, positives, count, grouped, rounds):
    """Against plain Python: who may be drawn, and that nobody lacks what could be had."""
    size = len(weights)
    met = {(u, i) for u, i in met if i < size} | {(u, i) for u, i in positives if i < size}
    positives = [(u, i) for u, i in positives if i < size]
    groups = [i % 2 for i in range(size)] if grouped else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_ROUNDS", rounds)
        of, items = draw(
            sampler(weights, met, groups=groups),
            np.array([u for u, _ in positives], dtype=np.int64),
            np.array([i for _, i in positives], dtype=np.int64),
            count,
        )
    assert (np.diff(of) >= 0).all()
    for place, (user, item) in enumerate(positives):
        mine = items[of == place].tolist()
        allowed = {
            other
            for other in range(size)
            if weights[other] > 0
            and (user, other) not in met
            and (groups is None or groups[other] == groups[item])
        }
        assert len(set(mine)) == len(mine)
        assert set(mine) <= allowed
        assert len(mine) == min(count, len(allowed))


def test_what_is_met_later_may_be_drawn_before():
    drawer = sampler([1, 1, 1], met=[(0, 0), (0, 1)], first=[5, 9])
    of, items = draw(drawer, [0, 0, 0], [0, 0, 0], 3, times=[5, 8, 9])
    assert [items[of == p].tolist() for p in range(3)] == [[1, 2], [1, 2], [2]]


@pytest.mark.parametrize("rounds", [64, 0])
def test_chances(rounds, monkeypatch):
    """One after the other, in proportion to the weights of what is left."""
    monkeypatch.setattr(sampling, "_ROUNDS", rounds)
    drawer, runs = sampler([0, 4, 3, 2, 1], met=[(0, 2)]), 20_000
    of, items = draw(drawer, [0] * runs, [2] * runs, 2)
    pairs, counts = np.unique(items.reshape(runs, 2), axis=0, return_counts=True)
    assert (of == np.repeat(np.arange(runs), 2)).all()
    chance = {1: 4 / 7, 3: 2 / 7, 4: 1 / 7}
    for (a, b), n in zip(pairs.tolist(), counts.tolist(), strict=True):
        p = chance[a] * chance[b] / (1 - chance[a]) + chance[b] * chance[a] / (1 - chance[b])
        assert n / runs == pytest.approx(p, abs=4 * (p * (1 - p) / runs) ** 0.5)


def test_a_user_who_met_nearly_everything_gets_the_rest():
    size = 3000
    met = [(0, i) for i in range(size) if i not in (7, 2999)]
    of, items = draw(sampler(np.ones(size), met), [0], [3], 5)
    assert of.tolist() == [0, 0]
    assert items.tolist() == [7, 2999]


def test_same_seed_same_items():
    drawer = sampler(np.arange(50), met=[(u, u) for u in range(50)])
    one, same, other = (draw(drawer, range(50), range(50), 3, seed=s)[1] for s in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_a_million_take_seconds_at_most():
    """No loop over positives: that would take a minute."""
    users, items = np.arange(1_000_000) % 10_000, np.arange(1_000_000) % 5_000
    met = Met(np.unique(users * 5_000 + items))
    drawer = NegativeSampler(np.arange(5_000.0), met)
    started = time.process_time()
    of, drawn = drawer.draw(users, items, None, 1, np.random.default_rng(0))
    assert time.process_time() - started < 15
    assert len(drawn) == 1_000_000
    assert not met.had(users[of] * 5_000 + drawn, None).any()
