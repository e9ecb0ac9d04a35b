"""A model over ready-made histories, from raw lists to served scores."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from finerank.bundle import load_bundle
from finerank.data.arrow_file import read_columns
from finerank.data.dataset import Dataset
from finerank.errors import FinerankError
from finerank.evaluation.evaluator import score
from finerank.ranker import Ranker
from finerank.run import train

RECIPE = """
name: lists
log: {path: log.parquet, user: uid, item: iid, time: at}
items: {path: items.parquet, key: iid}
features:
  iid: {side: item, type: id}
  cat: {side: item, type: id}
  device: {side: context, type: id}
  stars: {side: history, type: number}
  brand: {side: item, type: id}
histories:
  clicked:
    features: [iid, cat, stars]
    lists: {iid: past, stars: past_stars}
    max_length: 4
  viewed: {lists: {brand: brands}, newest: first, separator: "|", max_length: 3}
  seen: {features: [iid], max_length: 3}
tasks: {click: click}
split: {by: time, valid_from: 70, test_from: 80}
model: {name: din, embedding_dim: 4, hidden_units: [16], attention_hidden_units: [8]}
training: {epochs: 6, batch_size: 64, learning_rate: 0.02, patience: 6}
"""


def _log(random):
    """A click is of an item of the category that the request's list is of."""
    rows = []
    for request in range(500):
        taste = random.integers(4)
        past = (taste + 4 * random.integers(0, 3, random.integers(1, 7))).tolist()
        past = [None, *past][random.integers(0, 2) :]
        same = {
            "uid": f"u{request % 20}",
            "at": request // 5,
            "device": str(random.choice(["phone", "desk"])),
            "past": past if request % 9 else None,
            "past_stars": [random.random() if i != 5 else None for i in past]
            if request % 9
            else None,
            "brands": "|".join(f"b{i}" for i in random.choice(5, random.integers(0, 5))),
        }
        for item in random.choice(12, 3, replace=False).tolist():
            click = int(random.random() < (0.9 if item % 4 == taste else 0.1))
            rows.append({**same, "iid": item, "brand": f"b{item % 5}", "click": click})
    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    log = _log(np.random.default_rng(3))
    pq.write_table(log, folder / "log.parquet")
    items = pa.table({"iid": range(12), "cat": [f"c{i % 4}" for i in range(12)]})
    pq.write_table(items, folder / "items.parquet")
    (folder / "recipe.yaml").write_text(RECIPE)
    done = train(folder / "recipe.yaml", folder / "run")
    bundle = load_bundle(folder / "run")
    dataset = Dataset(bundle.dataset)
    test = dataset.split("test")
    request = np.repeat(np.arange(test.num_requests), test.first_candidate.diff())
    keys = zip(
        dataset.users.keys.decode(test.user.numpy()[request]),
        dataset.items.keys.decode(test.item.numpy()),
        read_columns(dataset.folder / "test" / "requests.arrow")["time"].numpy()[request].tolist(),
        strict=True,
    )
    probabilities = 1 / (1 + np.exp(-score(bundle.model, test)))[:, 0]
    truth = dict(zip(keys, probabilities.tolist(), strict=True))
    rows = [r for r in log.to_pylist() if r["at"] >= 80]
    assert len(truth) == len(rows)
    return SimpleNamespace(folder=folder, run=done, truth=truth, rows=rows, log=log)


def requests_of(rows):
    grouped = {}
    for row in rows:
        grouped.setdefault((row["uid"], row["at"]), []).append(row)
    return grouped


CONTEXT = ("device", "past", "past_stars", "brands")


def test_the_model_learns_what_only_the_lists_tell(shop):
    assert shop.run.metrics["test"]["click"]["auc"] > 0.75


def test_predict_gives_the_scores_of_the_evaluation(shop):
    rows = pa.Table.from_pylist(shop.rows, schema=shop.log.schema)
    order = np.random.default_rng(1).permutation(len(shop.rows))
    for each in (rows, rows.take(pa.array(order))):
        scored = Ranker.load(shop.folder / "run").predict(each).to_pylist()
        for row in scored:
            true = shop.truth[row["uid"], row["iid"], row["at"]]
            assert row["score_click"] == pytest.approx(true, abs=1e-6)


def test_rank_gives_the_scores_of_the_evaluation(shop):
    ranker = Ranker.load(shop.folder / "run")
    for (user, time), rows in list(requests_of(shop.rows).items())[:30]:
        for row in rows:  # brands differ by row
            context = {name: row[name] for name in (*CONTEXT, "brand")}
            (one,) = ranker.rank(user=user, candidates=[row["iid"]], time=time, context=context)
            true = shop.truth[user, row["iid"], time]
            assert one.scores["click"] == pytest.approx(true, abs=1e-6)


def test_only_the_newest_are_read_and_all_of_them(shop):
    """The fifth from the end changes nothing, and the fourth does; likewise from the front."""
    ranker = Ranker.load(shop.folder / "run")

    def ranked(**changed):
        given = {"device": "desk", "past": [1, 2, 3, 4, 5], "past_stars": [0.1] * 5}
        given |= {"brands": "b1|b2|b3|b4", "brand": "b1", **changed}
        (one,) = ranker.rank(user="u1", candidates=[3], time=85, context=given)
        return one.scores["click"]

    as_given = ranked()
    assert ranked(past=[9, 2, 3, 4, 5]) == as_given
    assert ranked(past=[1, 9, 3, 4, 5]) != as_given
    assert ranked(brands="b1|b2|b3|b0") == as_given
    assert ranked(brands="b1|b2|b0|b4") != as_given
    none = ranked(past=None, past_stars=None)
    assert none == ranked(past=[], past_stars=[])
    assert none != as_given


def test_rows_of_one_moment_with_other_lists_are_apart(shop):
    ranker = Ranker.load(shop.folder / "run")
    lists = [[1, 5], [2, 6], [2, 6], [], [9]]
    same = {"uid": "u1", "iid": 1, "at": 85, "device": "desk", "brands": "b1", "brand": "b1"}
    rows = [{**same, "past": past, "past_stars": [0.5] * len(past)} for past in lists]
    together = ranker.predict(pa.Table.from_pylist(rows))["score_click"].to_pylist()
    alone = [ranker.predict(pa.Table.from_pylist([row], schema=shop.log.schema)) for row in rows]
    assert together == pytest.approx([each["score_click"][0].as_py() for each in alone], abs=1e-6)
    assert len({round(each, 5) for each in together}) == 4


def test_what_is_missing_or_wrong_is_named(shop):
    ranker = Ranker.load(shop.folder / "run")
    given = {"device": "desk", "past": [1, 2], "past_stars": [0.1], "brands": "b1", "brand": "b1"}
    call = {"user": "u1", "candidates": [3], "time": 85}
    with pytest.raises(FinerankError, match="found 2 in 'past', 1 in 'past_stars', in the row"):
        ranker.rank(**call, context=given)
    with pytest.raises(
        FinerankError, match=r"a list column, or text and a separator, found 'past'"
    ):
        ranker.rank(**call, context={**given, "past": 3})
    del given["past"]
    with pytest.raises(FinerankError, match=r"rows: expected a column 'past' \(for list.clicked"):
        ranker.rank(**call, context=given)


def test_only_histories_of_events_can_be_asked_for(shop):
    ranker = Ranker.load(shop.folder / "run")
    assert len(ranker.history("u1", time=85)) == 3
    with pytest.raises(FinerankError, match="expected a history of events, found 'clicked'"):
        ranker.history("u1", name="clicked")


def test_the_command_line(shop, finerank):
    (user, time), rows = next(iter(requests_of(shop.rows).items()))
    row = rows[0]
    arguments = ["rank", shop.folder / "run", "--user", user, "--candidates", row["iid"]]
    arguments += ["--time", time, "--json"]
    for name in (*CONTEXT, "brand"):
        value = row[name]
        text = value if isinstance(value, str) else json.dumps(value)
        arguments += ["--context", f"{name}={text}"]
    code, out, err = finerank(*arguments)
    assert code == 0, err
    true = shop.truth[user, row["iid"], time]
    assert json.loads(out)[0]["scores"]["click"] == pytest.approx(true, abs=1e-6)
    code, _, err = finerank(*arguments, "--context", "past=3")
    assert code == 2
    assert "--context past=3: expected a list such as [12, 15], found 3." in err


def test_ids_of_the_lists_are_those_of_the_candidates(shop):
    dataset = Dataset(load_bundle(shop.folder / "run").dataset)
    batch = dataset.split("test").batch(torch.arange(50))
    steps = batch.histories["clicked"].columns
    cats = dataset.encoder.encodings["cat"].vocabulary
    items = dataset.encoder.encodings["iid"].vocabulary
    raw = items.decode(steps["iid"].numpy())
    expected = [None if item is None else f"c{item % 4}" for item in raw]
    assert cats.decode(steps["cat"].numpy()) == expected
    assert len({*raw}) > 5


def test_the_lists_of_a_request_are_read_once(shop, monkeypatch):
    from finerank import scoring  # noqa: PLC0415

    read, rows_read = scoring.read_lists, []

    def counted(rows, *arguments):
        rows_read.append(rows.num_rows)
        return read(rows, *arguments)

    monkeypatch.setattr(scoring, "read_lists", counted)
    (row, *_) = shop.rows
    context = {name: row[name] for name in (*CONTEXT, "brand")}
    Ranker.load(shop.run.folder).rank(
        user=row["uid"], time=row["at"], candidates=list(range(12)), context=context
    )
    assert rows_read == [1, 1]  # of two histories
