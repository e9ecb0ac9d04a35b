"""The simulated log against a slow reading of its own definition."""

import math
import time
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest

from finerank.data.simulator import BIAS, PERIOD_S, START_S, STRENGTH, simulate, write
from finerank.evaluation.metrics import auc

SMALL = {"users": 40, "requests_per_user": 30, "candidates_per_request": 4, "seed": 7}


def requests(simulation):
    """Rows of each request: a user at a second."""
    found = defaultdict(list)
    log = simulation.log
    keys = zip(log["user_id"].to_pylist(), log["timestamp_s"].to_pylist(), strict=True)
    for row, key in enumerate(keys):
        found[key].append(row)
    return found


def slow_probabilities(simulation, memory):
    """The definition in plain Python: score a whole request, then take in its clicks."""
    items = simulation.items.to_pylist()
    category = {row["item_id"]: row["category"] for row in items}
    appeal = {row["item_id"]: a for row, a in zip(items, simulation.item_appeal, strict=True)}
    item_id = simulation.log["item_id"].to_pylist()
    click = simulation.log["click"].to_pylist()
    clicked = defaultdict(list)
    result = [math.nan] * len(item_id)
    for (user, _), rows in sorted(requests(simulation).items(), key=lambda request: request[0][1]):
        recent = clicked[user][-memory:]
        for row in rows:
            matches = sum(1 for past in recent if past == category[item_id[row]])
            logit = BIAS + STRENGTH * math.log1p(matches) + appeal[item_id[row]]
            result[row] = 1 / (1 + math.exp(-logit))
        clicked[user] += [category[item_id[row]] for row in rows if click[row]]
    return result, clicked


@pytest.mark.parametrize(
    ("memory", "sizes"),
    [
        (50, {**SMALL, "requests_per_user": 90}),
        (3, SMALL),  # clicks fall out of memory, in the middle of a request too
        (300, {"users": 2, "requests_per_user": 500, "categories": 1, "interests": 1, "seed": 7}),
        (1, {**SMALL, "categories": 5, "items": 20, "interests": 2, "candidates_per_request": 1}),
        (5, {**SMALL, "categories": 2, "items": 13, "interests": 2, "candidates_per_request": 12}),
    ],
)
def test_probabilities_follow_the_definition(memory, sizes):
    simulation = simulate(**sizes, memory=memory)
    expected, clicked = slow_probabilities(simulation, memory)
    np.testing.assert_allclose(simulation.click_probabilities, expected, rtol=0, atol=1e-12)
    assert max(len(clicks) for clicks in clicked.values()) > memory


def test_clicks_follow_the_probabilities():
    simulation = simulate(users=2_000, requests_per_user=20, candidates_per_request=5, seed=1)
    p = simulation.click_probabilities
    excess = simulation.log["click"].to_numpy() - p
    bins = np.digitize(p, [0.1, 0.2, 0.35, 0.6, 0.85])
    for index in range(6):
        chosen = bins == index
        assert chosen.sum() > 1_000
        z = excess[chosen].sum() / math.sqrt((p[chosen] * (1 - p[chosen])).sum())
        assert abs(z) < 4, f"bin {index}: z = {z:.1f}"


def test_a_request_is_different_items_at_one_second_in_order_of_time():
    simulation = simulate(**SMALL)
    found = requests(simulation)
    assert len(found) == 40 * 30  # no second of a user is taken twice
    item_id = simulation.log["item_id"].to_pylist()
    for rows in found.values():
        assert rows == list(range(rows[0], rows[0] + 4))
        assert len({item_id[row] for row in rows}) == 4
    times = simulation.log["timestamp_s"].to_numpy()
    assert (np.diff(times) >= 0).all()
    assert times[0] >= START_S
    assert times[-1] < START_S + PERIOD_S


def test_every_user_spans_the_whole_period():
    log = simulate(users=30, requests_per_user=50, seed=2).log
    times, users = log["timestamp_s"].to_numpy(), log["user_id"].to_numpy()
    for user in np.unique(users):
        of_user = (times[users == user] - START_S) / PERIOD_S
        assert len(of_user) == 50
        assert of_user.min() < 0.2
        assert of_user.max() > 0.8
        assert 0.3 < of_user.mean() < 0.7


def test_timestamps_stay_distinct_when_the_period_is_nearly_full(monkeypatch):
    monkeypatch.setattr("finerank.data.simulator.PERIOD_S", 20)
    log = simulate(users=5, requests_per_user=20, seed=0).log
    assert sorted(log["timestamp_s"].to_pylist()) == [
        START_S + s for s in range(20) for _ in range(5)
    ]


def test_tables_join_and_hold_no_truth():
    simulation = simulate(**SMALL)
    assert simulation.log.column_names == ["user_id", "item_id", "timestamp_s", "click"]
    assert simulation.items.column_names == ["item_id", "category"]
    assert simulation.users.column_names == ["user_id", "age", "country"]
    assert simulation.log.num_rows == len(simulation.click_probabilities) == 40 * 30 * 4
    assert set(simulation.log["click"].to_pylist()) == {0, 1}
    users = simulation.users["user_id"].to_pylist()
    items = simulation.items["item_id"].to_pylist()
    assert len(set(users)) == 40
    assert len(set(items)) == len(simulation.item_appeal) == 2_000
    assert len(set(simulation.items["category"].to_pylist())) == 100
    assert set(simulation.log["user_id"].to_pylist()) == set(users)
    assert set(simulation.log["item_id"].to_pylist()) <= set(items)
    assert min(items) >= 1_000
    assert max(items) - min(items) > 2_000  # ids have gaps
    assert min(users) > 2**24  # float32 would merge them


def test_histories_have_no_clicks_then_several_categories():
    simulation = simulate(users=500, requests_per_user=20, candidates_per_request=5, seed=3)
    _, clicked = slow_probabilities(simulation, memory=50)
    first_rows = {}
    for (user, _), rows in requests(simulation).items():
        first_rows.setdefault(user, rows)
    assert len(first_rows) == 500  # each user starts without a click
    assert sum(1 for clicks in clicked.values() if len(set(clicks)) >= 5) > 400


def test_shown_items_are_of_interests_and_popular():
    simulation = simulate(users=200, requests_per_user=500, seed=4)
    category = {row["item_id"]: row["category"] for row in simulation.items.to_pylist()}
    shown = defaultdict(lambda: defaultdict(int))
    items = defaultdict(int)
    for row in simulation.log.to_pylist():
        shown[row["user_id"]][category[row["item_id"]]] += 1
        items[row["item_id"]] += 1
    top = [sum(sorted(counts.values())[-8:]) / 500 for counts in shown.values()]
    # At least 0.4 + 0.6 * 8 / 100 in eight interests; by chance alone eight of 100 hold about 0.15.
    assert 0.4 < np.mean(top) < 0.6
    # Zipf over 20 items: the first of a category has 1 / (1 + 1/2 + ... + 1/20) = 28 % of it.
    assert sum(sorted(items.values())[-100:]) / 100_000 == pytest.approx(0.28, abs=0.02)


@pytest.mark.parametrize(
    ("sizes", "rate", "best_auc"),
    [((1_000, 20, 5), 0.215, 0.733), ((1_000, 200, 1), 0.274, 0.792), ((200, 100, 5), 0.36, 0.84)],
)
def test_click_rate_and_best_auc(sizes, rate, best_auc):
    users, requests_per_user, candidates = sizes
    simulation = simulate(
        users=users, requests_per_user=requests_per_user, candidates_per_request=candidates, seed=5
    )
    click = simulation.log["click"].to_numpy()
    assert click.mean() == pytest.approx(rate, abs=0.015)
    assert auc(click, simulation.click_probabilities) == pytest.approx(best_auc, abs=0.015)


def test_popularity_does_not_replace_the_history():
    simulation = simulate(users=1_000, requests_per_user=40, candidates_per_request=5, seed=6)
    click = simulation.log["click"].to_numpy()
    row_of_item = {item: row for row, item in enumerate(simulation.items["item_id"].to_pylist())}
    rows = [row_of_item[item] for item in simulation.log["item_id"].to_pylist()]
    by_appeal = auc(click, simulation.item_appeal[rows])
    assert by_appeal < 0.66
    assert auc(click, simulation.click_probabilities) > by_appeal + 0.1


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    names = ["items.parquet", "log.parquet", "users.parquet"]
    for folder in ("a", "deep/b"):
        write(simulate(**SMALL), tmp_path / folder)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "deep/b" / name).read_bytes()
    simulation = simulate(**SMALL)
    assert pq.read_table(tmp_path / "a" / "log.parquet") == simulation.log
    assert pq.read_table(tmp_path / "a" / "items.parquet") == simulation.items
    assert pq.read_table(tmp_path / "a" / "users.parquet") == simulation.users
    other = simulate(**(SMALL | {"seed": 8}))
    for mine, theirs in (
        (simulation.log["click"], other.log["click"]),
        (simulation.log["timestamp_s"], other.log["timestamp_s"]),
        (simulation.items, other.items),
        (simulation.users, other.users),
    ):
        assert mine != theirs


def test_items_do_not_depend_on_the_number_of_users():
    one, many = simulate(users=1, requests_per_user=1, seed=9), simulate(**(SMALL | {"seed": 9}))
    assert one.items == many.items
    np.testing.assert_array_equal(one.item_appeal, many.item_appeal)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"users": 0}, "users: expected from 1 to 1000000000, found 0"),
        ({"requests_per_user": PERIOD_S + 1}, "requests_per_user: expected from 1 to 2592000"),
        ({"items": 0}, "items: expected from 1 to 2147483647, found 0"),
        ({"items": 10, "categories": 11}, "categories: expected from 1 to 10, found 11"),
        ({"items": 3, "categories": 2, "interests": 1}, "candidates_per_request: .* found 4"),
        ({"interests": 101}, "interests: expected from 1 to 100, found 101"),
        ({"memory": 0}, "memory: expected from 1 to 32767, found 0"),
    ],
)
def test_sizes_out_of_range_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        simulate(**(SMALL | wrong))


def test_200_000_rows_take_a_few_seconds():
    start_s = time.perf_counter()
    simulate(users=10_000, requests_per_user=20, seed=0)
    simulate(users=1_000, requests_per_user=20, candidates_per_request=10, seed=0)
    assert time.perf_counter() - start_s < 6
