"""Served scores against those of the evaluation, and what a caller may leave out or get wrong."""

import datetime
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from finerank.bundle import load_bundle
from finerank.data.arrow_file import read_columns
from finerank.data.dataset import Dataset
from finerank.errors import FinerankError
from finerank.evaluation.evaluator import score
from finerank.ranker import Ranker
from finerank.run import train

ATOL = 1e-6
TASKS = ("click", "cart")


@pytest.fixture(scope="module")
def ranker(shop):
    return Ranker.load(shop.run)


@pytest.fixture(scope="module")
def truth(shop):
    """(user, item, time) -> the probabilities that the evaluation gives on the test split."""
    bundle = load_bundle(shop.run)
    dataset = Dataset(bundle.dataset)
    test = dataset.split("test")
    probabilities = 1 / (1 + np.exp(-score(bundle.model, test)))
    request = np.repeat(np.arange(test.num_requests), test.first_candidate.diff())
    times = read_columns(dataset.folder / "test" / "requests.arrow")["time"].numpy()
    users = dataset.users.keys.decode(test.user.numpy()[request])
    items = dataset.items.keys.decode(test.item.numpy())
    rows = zip(users, items, times[request].tolist(), strict=True)
    return dict(zip(rows, probabilities.tolist(), strict=True))


def rows_of(log, truth):
    """The raw rows whose true score is known."""
    keys = zip(*(log[name].to_pylist() for name in ("user_id", "item_id", "time_s")), strict=True)
    return log.filter(pa.array([key in truth for key in keys]))


def scores_of(table):
    return np.array([table[f"score_{task}"].to_pylist() for task in TASKS]).T


def by_key(table):
    keys = zip(*(table[name].to_pylist() for name in ("user_id", "item_id", "time_s")), strict=True)
    return dict(zip(keys, scores_of(table).tolist(), strict=True))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=ATOL, err_msg=str(key))


def requests_of(rows):
    """(user, time, device) -> the rows of that request."""
    grouped = {}
    for row in rows.to_pylist():
        grouped.setdefault((row["user_id"], row["time_s"], row["device"]), []).append(row)
    return grouped


def rank(ranker, rows, **options):
    """Each row ranked in a call of its own, since prices differ."""
    scores = {}
    for row in rows:
        context = {"device": row["device"], "price": row["price"]}
        call = {"user": row["user_id"], "time": row["time_s"], "context": context, **options}
        (one,) = ranker.rank(candidates=[row["item_id"]], **call)
        scores[row["user_id"], row["item_id"], row["time_s"]] = [one.scores[t] for t in TASKS]
    return scores


def test_the_fixture_says_something(shop, truth):
    """Else parity would hold for a constant."""
    assert len(truth) > 100
    scores = np.array(list(truth.values()))
    assert (scores.std(axis=0) > 0.01).all()
    blind = Ranker(replace(load_bundle(shop.run), dataset=shop.folder / "gone"))
    rows = rows_of(shop.log, truth)
    scores = by_key(blind.predict(rows))
    differences = np.array([np.abs(np.subtract(scores[key], truth[key])) for key in scores])
    assert (differences.max(axis=0) > 100 * ATOL).all()


def test_predict_gives_the_scores_of_the_evaluation(shop, ranker, truth, tmp_path):
    rows = rows_of(shop.log, truth)
    assert_same(by_key(ranker.predict(rows)), truth)
    order = np.random.default_rng(1).permutation(rows.num_rows)
    assert_same(by_key(ranker.predict(rows.take(pa.array(order)))), truth)
    pq.write_table(rows, tmp_path / "rows.parquet")
    from_file = ranker.predict(tmp_path / "rows.parquet")
    assert_same(by_key(from_file), truth)
    assert from_file.column_names == ["user_id", "item_id", "time_s", "score_click", "score_cart"]
    assert from_file["item_id"].to_pylist() == rows["item_id"].to_pylist()


def test_predict_in_pieces_gives_the_same(shop, ranker, truth, tmp_path, monkeypatch):
    monkeypatch.setattr("finerank.raw_rows._ROWS_A_PIECE", 64)
    rows = rows_of(shop.log, truth)
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=50)
    assert_same(by_key(ranker.predict(tmp_path / "rows.parquet")), truth)


def test_rank_gives_the_scores_of_the_evaluation(shop, ranker, truth):
    """A request at a time, at its own time; prices differ by row, so an item at a time."""
    for rows in list(requests_of(rows_of(shop.log, truth)).values())[::15]:
        found = rank(ranker, rows)
        assert_same(found, {key: truth[key] for key in found})


def test_rank_orders_many_candidates_as_predict_scores_them(ranker):
    items, context = [1003, 1010, 1028, 1000], {"device": "desk", "price": 2.5}
    for by in (None, *TASKS):
        ranked = ranker.rank(user="u3", candidates=items, time=1_900_000, context=context, by=by)
        rows = pa.table(
            {
                "user_id": ["u3"] * 4,
                "item_id": items,
                "time_s": [1_900_000] * 4,
                "device": ["desk"] * 4,
                "price": [2.5] * 4,
            }
        )
        scores = dict(zip(items, scores_of(ranker.predict(rows)), strict=True))
        column = TASKS.index(by or "click")
        assert [each.item for each in ranked] == sorted(items, key=lambda i: -scores[i][column])
        for each in ranked:
            found = [each.scores[task] for task in TASKS]
            np.testing.assert_allclose(found, scores[each.item], rtol=0, atol=ATOL)
        assert ranked[0].title == f"Thing [b]{ranked[0].item - 1000}"


def test_who_and_what_was_never_seen_scores_as_unknown(ranker):
    context = {"device": "desk", "price": 2.5, "hour": 3}
    known, new = (
        {r.item: r for r in ranker.rank(user=user, candidates=[1000, 77, 78], context=context)}
        for user in ("u1", "nobody")
    )
    for ranked in (known, new):
        assert ranked[1000].known
        assert not ranked[77].known
        assert ranked[77].title is None
        assert ranked[77].scores == ranked[78].scores  # both are the unknown item
        assert ranked[77].scores != ranked[1000].scores
    assert known[1000].scores != new[1000].scores
    other = ranker.rank(user=None, candidates=[1000], context=context)
    assert other[0].scores == pytest.approx(new[1000].scores, abs=ATOL)


def test_ids_may_be_text(ranker):
    """The command line has only text."""
    context = {"device": "desk", "price": "2.5", "hour": "3"}
    (text,) = ranker.rank(user="u1", candidates=["1004"], context=context)
    (number,) = ranker.rank(
        user="u1", candidates=[1004], context=context | {"price": 2.5, "hour": 3}
    )
    assert text.known
    assert text.scores == pytest.approx(number.scores, abs=ATOL)


def events_of(log, user):
    rows = log.filter(pc.equal(log["user_id"], user)).drop_columns(["user_id"]).to_pylist()
    return sorted(rows, key=lambda row: row["time_s"] or 0)


def test_a_history_given_is_the_same_as_a_history_known(shop, ranker, truth):
    for rows in list(requests_of(rows_of(shop.log, truth)).values())[::40]:
        events = events_of(shop.log, rows[0]["user_id"])
        assert_same(rank(ranker, rows, history=events), rank(ranker, rows))
        assert_same(rank(ranker, rows, history=events[::-1]), rank(ranker, rows))


def test_a_history_given_without_times_is_all_before_now(shop, ranker):
    """In the order given; the oldest beyond the longest history falls out."""
    events = [e for e in events_of(shop.log, "u5") if e["time_s"] is not None]
    events.sort(key=lambda event: (event["time_s"], event["item_id"]))
    untimed = [{k: v for k, v in event.items() if k != "time_s"} for event in events]
    context = {"device": "desk", "price": 2.5, "hour": 3}

    def scores(**options):
        return ranker.rank(user="u5", candidates=[1000], context=context, **options)[0].scores

    assert sum(event["click"] for event in untimed) > 6
    assert scores(history=untimed) == pytest.approx(scores(), abs=ATOL)
    assert scores(history=untimed, time=5) == pytest.approx(scores(), abs=ATOL)
    assert scores(history=untimed[::-1]) != pytest.approx(scores(), abs=1e-4)


def test_a_visitor_without_an_id_may_have_a_history(shop, ranker):
    events, context = events_of(shop.log, "u5"), {"device": "desk", "price": 2.5, "hour": 1}
    options = {"candidates": [1000], "context": context, "time": 1_999_999_999}
    none, some, named = (
        ranker.rank(user=user, history=history, **options)[0].scores
        for user, history in ((None, []), (None, events), ("nobody", events))
    )
    assert none != some
    assert some == pytest.approx(named, abs=ATOL)


def test_a_history_file_serves_users_that_the_data_set_never_saw(shop, ranker, truth, tmp_path):
    """All of them are the unknown user to the model, but each has a past of their own."""

    def renamed(table):
        users = pc.binary_join_element_wise("new-", table["user_id"], "")
        return table.set_column(0, "user_id", users)

    pq.write_table(renamed(shop.log), tmp_path / "log.parquet")
    new = Ranker.load(shop.run, history=tmp_path / "log.parquet")
    rows = rows_of(shop.log, truth)
    rows = rows.set_column(2, "time_s", pa.array([1_999_999] * rows.num_rows))  # all at one time
    rows = rows.set_column(5, "device", pa.array(["desk"] * rows.num_rows))
    rows = rows.take(pa.array(np.random.default_rng(2).permutation(rows.num_rows)))
    together = scores_of(new.predict(renamed(rows)))
    alone = np.concatenate([scores_of(new.predict(renamed(rows.slice(i, 1)))) for i in range(40)])
    np.testing.assert_allclose(together[:40], alone, rtol=0, atol=ATOL)
    given = [
        ranker.rank(
            user="nobody",
            candidates=[row["item_id"]],
            time=row["time_s"],
            context={"device": row["device"], "price": row["price"]},
            history=events_of(shop.log, row["user_id"]),
        )[0].scores
        for row in rows.slice(0, 6).to_pylist()
    ]
    np.testing.assert_allclose(
        together[:6], [[each[t] for t in TASKS] for each in given], rtol=0, atol=ATOL
    )


def test_the_log_as_history_is_the_same_as_the_data_set(shop, truth):
    """Ties in time at the cut of a long history fall the same way."""
    from_log = Ranker.load(shop.run, history=shop.folder / "raw" / "log.parquet")
    assert_same(by_key(from_log.predict(rows_of(shop.log, truth))), truth)
    table = Ranker.load(shop.run, history=shop.log)
    assert_same(by_key(table.predict(rows_of(shop.log, truth))), truth)


def test_rows_without_a_time_use_all_the_past(shop, ranker, truth):
    """A column that isn't there, one without any value, and a value that is missing."""
    rows = rows_of(shop.log, truth).slice(0, 90)
    rows = rows.append_column("hour", pa.array(np.full(rows.num_rows, 5)))
    late, nothing = pa.array([10**9] * 90), pa.nulls(90, pa.int64())
    expected = scores_of(ranker.predict(rows.set_column(2, "time_s", late)))
    some = pa.array([None if i % 3 else 10**9 for i in range(90)])
    for each in (
        rows.drop_columns(["time_s"]),
        rows.set_column(2, "time_s", nothing),
        rows.set_column(2, "time_s", some),
        rows.set_column(2, "time_s", pa.nulls(90)),
    ):
        found = scores_of(ranker.predict(each))
        np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)
    early = scores_of(ranker.predict(rows))
    assert np.abs(early - expected).max() > 100 * ATOL


def test_a_derived_column_is_computed_or_given(shop, ranker, truth):
    rows = rows_of(shop.log, truth).slice(0, 30)
    hour = pc.cast(rows["time_s"], pa.int64()).to_numpy() // 3600 % 24
    given = scores_of(ranker.predict(rows.append_column("hour", pa.array(hour))))
    np.testing.assert_allclose(scores_of(ranker.predict(rows)), given, rtol=0, atol=ATOL)
    other = scores_of(ranker.predict(rows.append_column("hour", pa.array(hour + 9))))
    assert np.abs(other - given).max() > 1e-4


def test_the_history_by_title(shop, ranker):
    events = [e for e in events_of(shop.log, "u7") if e["click"] and e["time_s"] is not None]
    events.sort(key=lambda e: (e["time_s"], e["item_id"]))
    before = [e["item_id"] for e in events if e["time_s"] < 1_000_000][-6:]
    assert ranker.history("u7", time=1_000_000) == [
        (item, f"Thing [b]{item - 1000}") for item in before
    ]
    carted = [e["item_id"] for e in events if e["cart"]][-4:]
    assert [item for item, _ in ranker.history("u7", name="carted")] == carted
    assert ranker.history("nobody") == []
    with pytest.raises(FinerankError, match="Did you mean 'clicked'"):
        ranker.history("u7", name="clickd")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": []}, "candidates: expected at least one item, found none"),
        ({"by": "clik"}, "by: expected a task, found 'clik'. Did you mean 'click'"),
        ({"context": {"price": 1.0}}, "expected a column 'device'"),
        ({"context": {"device": "desk", "price": "cheap"}}, "features.price: expected"),
        ({"candidates": [1000, "abc"]}, "item_id: expected values of one type"),
        ({"time": "noon"}, "expected"),
        ({"history": [{"item_id": 1000}]}, r"histories.clicked.where .*'click'"),
        ({"history": [{"click": 1, "cart": 0}]}, "history: expected a column 'item_id'"),
        (
            {"history": [{"click": 1, "cart": 0, "item_id": 1000}]},
            "history, for dwell: expected a column 'dwell'",
        ),
    ],
)
def test_what_a_caller_got_wrong(ranker, options, message):
    context = {"device": "desk", "price": 2.5}
    call = {"user": "u1", "candidates": [1000], "time": 5, "context": context}
    with pytest.raises(FinerankError, match=message):
        ranker.rank(**{**call, **options})


def test_rows_that_miss_a_column(shop, ranker):
    with pytest.raises(FinerankError, match=r"a column 'item_id' \(for item\)"):
        ranker.predict(shop.log.drop_columns(["item_id"]))
    with pytest.raises(FinerankError, match=r"a column 'device' \(for feature.device\)"):
        ranker.predict(shop.log.rename_columns({"device": "devic"}))
    with pytest.raises(FinerankError, match="rows: expected rows to score, found none"):
        ranker.predict(shop.log.slice(0, 0))
    with pytest.raises(FinerankError, match="no file"):
        ranker.predict(shop.folder / "nothing.parquet")


FLAT_RECIPE = """
log: {path: rows.csv, derive: {ratio: c1 * 0.5}}
features:
  c1: {side: context, type: number}
  ratio: {side: context, type: number}
  c2: {side: context, type: id}
  c3: {side: item, type: id}
tasks: {click: label}
split: {by: random, valid: 0.2, test: 0.2}
model: {name: dnn, embedding_dim: 2, hidden_units: [4]}
training: {epochs: 1, batch_size: 64}
"""


def test_a_flat_log_without_users_and_times(tmp_path):
    """As Criteo is: no ids of users or items, no times."""
    random = np.random.default_rng(0)
    lines = [
        f"{random.integers(2)},{random.random():.3f},k{random.integers(5)},k{random.integers(3)}"
        for _ in range(400)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["label,c1,c2,c3", *lines]))
    (tmp_path / "recipe.yaml").write_text(FLAT_RECIPE)
    run = train(tmp_path / "recipe.yaml", tmp_path / "run")
    assert run.metrics["test"]["click"]["gauc"] is None
    ranker = Ranker.load(tmp_path / "run")
    scores = ranker.predict(tmp_path / "rows.csv")
    assert scores.column_names == ["score_click"]
    assert scores.num_rows == 400
    found = sorted(scores["score_click"].to_pylist())
    dataset = Dataset(ranker.bundle.dataset)
    expected = np.concatenate(
        [
            score(ranker.bundle.model, dataset.split(name))[:, 0]
            for name in ("train", "valid", "test")
        ]
    )
    np.testing.assert_allclose(found, np.sort(1 / (1 + np.exp(-expected))), rtol=0, atol=ATOL)
    with pytest.raises(FinerankError, match=r"a recipe without log\.item"):
        ranker.rank(user=1, candidates=[1])


def test_without_its_data_set_nobody_has_a_past(shop, truth):
    bundle = replace(load_bundle(shop.run), dataset=shop.folder / "gone")
    ranker = Ranker(bundle)
    assert ranker.lacks_past
    assert not Ranker.load(shop.run).lacks_past
    assert not Ranker(bundle, past=ranker.read_history(shop.log)).lacks_past
    assert ranker.history("u7") == []
    rows = rows_of(shop.log, truth)
    scores = scores_of(ranker.predict(rows))
    assert np.isfinite(scores).all()
    given = {"user": "u7", "candidates": [1000], "context": {"device": "desk", "price": 1.0}}
    with_past, without = (
        Ranker(bundle, past=Ranker(bundle).read_history(shop.log)).rank(**given, time=1_900_000),
        ranker.rank(**given, time=1_900_000),
    )
    assert with_past[0].scores != without[0].scores


def test_a_time_of_another_kind(shop):
    given = {
        "user": "u7",
        "candidates": [1000],
        "context": {"device": "desk", "price": 1.0, "hour": 3},
    }
    moment = datetime.datetime(2024, 5, 1, 12, 0)  # noqa: DTZ001
    with pytest.raises(FinerankError, match="time: expected a number, as in the log, found time"):
        Ranker.load(shop.run).rank(**given, time=moment)
