"""Negatives drawn anew in each epoch, against plain Python over the raw rows."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from negative_logs import ANCHORS, EVENTS, ITEMS, KINDS, RECIPE, event

from finerank.data.arrow_file import read_columns
from finerank.data.loader import Loader
from finerank.data.sampling import Met, NegativeSampler
from finerank.errors import FinerankError
from finerank.run import train


def with_negatives(**negatives):
    return {**RECIPE, "negatives": {"per_positive": 2, "fresh": True, **negatives}}


def drawn(dataset, batch):
    """What a batch holds, as (user, item, labels) in raw ids."""
    ids = {name: dataset.encoder.encodings[name].vocabulary for name in ("iid", "uid")}
    users = ids["uid"].decode(batch.request["uid"].numpy())
    items = ids["iid"].decode(batch.candidate["iid"].numpy())
    kinds = dataset.encoder.encodings["kind"].vocabulary.decode(batch.candidate["kind"].numpy())
    rows = zip(batch.request_of_candidate.tolist(), items, kinds, batch.labels, strict=True)
    for request, item, kind, labels in rows:
        assert kind in (KINDS[item], None)
        yield users[request], item, [None if math.isnan(x) else x for x in labels.tolist()]


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],
)
@pytest.mark.parametrize(
    "negatives",
    [{}, {"by": "uniform", "exclude": "before"}, {"within": "kind", "per_positive": 4}],
)
@given(log=EVENTS)
def test_every_rule(new_workshop, negatives, log):
    log = log + ANCHORS
    dataset = new_workshop().prepare(with_negatives(**negatives), log=log, items=ITEMS)
    stored, anew = dataset.split("train"), dataset.training_set(seed=0)
    assert stored.num_candidates == dataset.manifest["report"]["rows"]["train"]
    pool = {r["iid"] for r in log if r["at"] < 20 and (r["click"], r["bought"]) != (None, None)}
    if negatives.get("by") != "uniform":
        pool = {r["iid"] for r in log if r["at"] < 20 and 1 in (r["click"], r["bought"])}
    times = read_columns(dataset.folder / "train" / "requests.arrow")["time"].tolist()
    count = negatives.get("per_positive", 2)
    for number in range(stored.num_requests):
        one = torch.tensor([number])
        own = list(drawn(dataset, stored.batch(one)))
        all_ = list(drawn(dataset, anew.batch(one)))
        (user,) = {user for user, _, _ in all_}
        until = times[number] if negatives.get("exclude") == "before" else 30
        met = {r["iid"] for r in log if r["uid"] == user and r["at"] <= until}
        assert Counter(map(str, own)) == Counter(str(each) for each in all_ if each[1] in met)
        expected = []
        for _, item, labels in own:
            left = {
                each
                for each in pool - met
                if "within" not in negatives or KINDS[each] == KINDS[item]
            }
            if 1.0 in labels:
                zeros = [None if label is None else 0.0 for label in labels]
                expected += [zeros] * min(count, len(left))
        sampled = [each for each in all_ if each[1] not in met]
        assert sorted(map(str, expected)) == sorted(str(labels) for _, _, labels in sampled)
        assert {item for _, item, _ in sampled} <= pool
        assert stored.batch(one).histories["seen"].columns["iid"].tolist() == (
            anew.batch(one).histories["seen"].columns["iid"].tolist()
        )


def many(workshop, out="prepared", **negatives):
    log = [event(u, "abcdefg"[u % 7], u % 19, 1, 0) for u in range(100)]
    log += [event(u, "abcdefg"[u % 3], 19, 1, 0) for u in range(200, 260)]
    log += ANCHORS
    return workshop.prepare(with_negatives(**negatives), out, log=log, items=ITEMS)


def test_each_pass_draws_others_and_the_seed_decides(workshop):
    dataset = many(workshop)

    def two_passes(seed):
        loader = Loader(dataset.training_set(seed=seed), batch_size=64)
        return [[b.candidate["iid"].tolist() for b in loader] for _ in range(2)]

    first, second = two_passes(0)
    assert first != second
    assert two_passes(0) == [first, second]
    assert two_passes(1)[0] != first


def test_evaluation_negatives_are_those_of_the_recipe_that_draws_once(workshop):
    fresh, once = many(workshop, "fresh"), many(workshop, "once", fresh=False)
    for split in ("valid", "test"):
        assert fresh.split(split).item.tolist() == once.split(split).item.tolist()
    assert fresh.manifest["report"]["negatives"]["train"] == 0
    assert once.manifest["report"]["negatives"]["train"] == 2 * 163
    # that many stand before the users who met nearly everything are known
    assert fresh.training_set(seed=0).num_candidates == once.training_set(seed=0).num_candidates


def test_over_many_passes_items_come_by_their_popularity(workshop):
    """For user 100 (met b) the first draw of one falls on each other item by its weight."""
    dataset = many(workshop, per_positive=1, power=1.0)
    anew = dataset.training_set(seed=3)
    batch = dataset.split("train").batch(torch.arange(anew.num_requests))
    users = dataset.encoder.encodings["uid"].vocabulary.decode(batch.request["uid"].numpy())
    request = torch.tensor([users.index(8)])  # met b
    found = Counter(list(drawn(dataset, anew.batch(request)))[1][1] for _ in range(2000))
    weights = Counter("abcdefg"[u % 7] for u in range(100))
    weights.update("abcdefg"[u % 3] for u in range(200, 260))
    weights.update(["a", "b", "c"])
    del weights["b"]
    assert set(found) == set(weights)
    for item, weight in weights.items():
        share = weight / weights.total()
        spread = math.sqrt(share * (1 - share) / 2000)
        assert found[item] / 2000 == pytest.approx(share, abs=4.5 * spread)


def test_a_model_trains_on_them(workshop, tmp_path):
    settings = {**with_negatives(), "training": {"epochs": 2, "batch_size": 32, "embedding_l2": 1}}
    log = [event(u, "abcdefg"[u % 7], u % 30, 1, u % 2) for u in range(200)]
    recipe = workshop.recipe(settings, log=log, items=ITEMS)
    one = train(recipe.override(["training.seed=1"]), tmp_path / "one", model="din")
    assert one.metrics["test"]["click"]["auc"] is not None


def test_a_sampler_is_read_back_as_it_was_written(tmp_path):
    weights = torch.tensor([0.0, 3.0, 1.0, 0.0, 2.0]).numpy()
    groups = torch.tensor([0, 1, 1, 2, 1]).numpy()
    met = Met(torch.tensor([7, 11]).numpy(), torch.tensor([1.5, 2.5]).numpy())
    NegativeSampler(weights, met, groups).save(tmp_path)
    read = NegativeSampler.load(tmp_path)
    assert read.pool.tolist() == [1, 2, 4]
    assert read.weights.tolist() == [3.0, 1.0, 2.0]
    assert read.groups.tolist() == groups.tolist()
    assert read.met.pairs.tolist() == [7, 11]
    assert read.met.first.tolist() == [1.5, 2.5]


def test_nothing_to_draw(workshop):
    with pytest.raises(FinerankError, match="per_positive of at least 1 beside fresh"):
        many(workshop, per_positive=0, evaluation=2)
