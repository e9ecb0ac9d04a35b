"""New rows behind a prepared data set, against preparing all rows in one go and plain Python."""

import json
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyarrow import csv

from finerank.data import grown, grown_events
from finerank.data.append import append
from finerank.data.arrow_file import read_columns
from finerank.data.dataset import Dataset
from finerank.data.sampling import NegativeSampler
from finerank.errors import FinerankError
from finerank.evaluation.evaluator import evaluate, score
from finerank.models.registry import build
from finerank.ranker import load_ranker as load
from finerank.run import evaluate_run, train
from finerank.settings import SPLITS
from finerank.training.warm_start import start_from

DAY, VALID, TEST = 100, 20, 25  # a day's rows are at 0 to 29 of its hundred
START = datetime(2026, 1, 1)  # noqa: DTZ001
RECIPE = {
    "log": {"user": "uid", "item": "iid", "time": "at"},
    "items": {"key": "iid"},
    "features": {
        "uid": {"side": "user", "type": "id"},
        "iid": {"side": "item", "type": "id", "max_size": 6},
        "kind": {"side": "item", "type": "id"},
        "price": {"side": "item", "type": "number"},
        "device": {"side": "context", "type": "id"},
        "words": {"side": "history", "type": "ids", "separator": " "},
    },
    "histories": {
        "liked": {"features": ["iid", "words"], "where": "click = 1", "max_length": 3},
        "seen": {"features": ["kind"], "max_length": 5, "max_age": 110},
    },
    "tasks": {"click": "click"},
    "split": {"by": "time", "valid_from": VALID, "test_from": TEST},
}
ALL = [{"iid": f"i{n}", "kind": n % 3, "price": n / 4} for n in range(12)]
ITEMS = ALL[:8]
LATER = [{**each, "kind": 7, "price": 9.5} if each["iid"] == "i2" else each for each in ALL[1:]]
# one is of another kind since, four are new, and i0 is listed no more


def row(day, uid, item, hour, click, device, words):
    at, iid = DAY * day + hour, f"i{item}"
    return {"uid": uid, "iid": iid, "at": at, "click": click, "device": device, "words": words}


def anchors(day):
    """Rows in each split, one of them twice; whom one day tests, the next one trains."""
    return [
        row(day, 5, 0, 3, 1, "a", "x"),
        row(day, 5, 0, 3, 1, "a", "x"),
        row(day, 19 + day, 3 * day + 1, 4, 0, "a", "x"),
        row(day, 5 + day, 1, 21, 1, "b", "y"),
        row(day, 20 + day, 1, 28, 0, "b", "y x"),
    ]


def days(day):
    rows = st.builds(
        row,
        st.just(day),
        st.integers(1, 4),
        st.integers(day, 6 + 2 * day),
        st.integers(0, 29),
        st.sampled_from([1, 1, 0, None]),
        st.sampled_from(["a", "b", f"own {day}"]),
        st.sampled_from(["x", "y x", f"own{day} x", ""]),
    )
    return st.lists(rows, min_size=6, max_size=25).map(lambda rows: rows + anchors(day))


def written(rows, kind):
    if kind == "number":
        return rows
    return [{**each, "at": START + timedelta(hours=each["at"])} for each in rows]


def bounds(day, kind):
    at = {"valid_from": DAY * day + VALID, "test_from": DAY * day + TEST}
    return at if kind == "number" else {n: str(START + timedelta(hours=h)) for n, h in at.items()}


def hour(time, kind):
    if kind == "number":
        return time
    return (time - int(np.datetime64(START, "us").astype(np.int64))) // 3_600_000_000


def values(dataset, name):
    return dataset.encoder.encodings[name].vocabulary.values.to_pylist()


def flat(requests, union, stages, kind):
    """Every candidate with all that belongs to it, sorted; what is not known there as None.

    A value of a column of the log is known where its vocabulary had it when its row was prepared;
    an id, and what the item table says, where the last vocabulary has it.
    """
    known = {
        name: [{*values(each, name)} & {*values(union, name)} for each in stages]
        for name in ("uid", "iid", "kind", "device", "words")
    }

    def of(name, value, day=-1):
        return value if value in known[name][day] else None

    found = []
    for r in requests:
        at, liked, seen = hour(r["time"], kind), r["histories"]["liked"], r["histories"]["seen"]
        # rows of one time come in the order of items, then of the rest: compared as sets
        steps = Counter(
            (time, item, of("iid", iid), *(of("words", w, hour(time, kind) // DAY) for w in words))
            for time, item, iid, words in zip(
                liked["raw_time"], liked["raw_item"], liked["iid"], liked["words"], strict=True
            )
        )
        kinds = Counter(
            (time, of("kind", k)) for time, k in zip(seen["raw_time"], seen["kind"], strict=True)
        )
        own = (at, r["user"], of("uid", r["request"]["uid"]))
        own = (*own, of("device", r["request"]["device"], at // DAY))
        for c in r["candidates"]:
            mine = (c["item"], of("iid", c["iid"]), of("kind", c["kind"]), c["labels"])
            shown = (own, mine, sorted(map(str, steps.items())), sorted(map(str, kinds.items())))
            found.append((at, r["user"], c["item"], repr(shown), c["price"]))
    return sorted(found, key=lambda each: each[3])


def grow(new_workshop, recipe, logs, kind):
    """Days prepared and appended one after the other, and the data set at each stage."""
    shop = new_workshop()
    stages = [shop.prepare(recipe, log=written(logs[0], kind), items=ITEMS)]
    Path(shop.folder / "log.parquet").unlink()  # the old rows are not read again
    for day, rows in enumerate(logs[1:], start=1):
        log = shop.write("day", written(rows, kind))
        table = shop.write("later", LATER) if day == 2 else None
        out = shop.folder / f"stage{day}"
        append(stages[-1].folder, log=log, out=out, items=table, split=bounds(day, kind))
        stages.append(Dataset(out))
        Path(log).unlink()
    return stages


def recipe_for(kind, **parts):
    histories = {**RECIPE["histories"]}
    if kind == "moment":
        histories["seen"] = {**histories["seen"], "max_age": "110h"}
    split = {"by": "time", **bounds(0, kind)}
    return {**RECIPE, "histories": histories, "split": split, **parts}


def in_small_pieces(monkeypatch):
    for module in (grown, grown_events):
        monkeypatch.setattr(module, "_ROWS_A_PIECE", 7)


def some(count):
    """Few examples, each of which prepares four data sets or more."""
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        phases=[Phase.generate],
    )


@pytest.mark.parametrize("kind", ["number", "moment"])
@some(2)
@given(logs=st.tuples(days(0), days(1), days(2)))
def test_appending_gives_what_preparing_the_union_gives(
    new_workshop, read, monkeypatch, kind, logs
):
    in_small_pieces(monkeypatch)
    stages = grow(new_workshop, recipe_for(kind), logs, kind)
    last = stages[-1]
    table = {each["iid"]: each for each in [*ITEMS, *LATER]}
    union = new_workshop().prepare(
        recipe_for(kind, split={"by": "time", **bounds(2, kind)}),
        log=written([*logs[0], *logs[1], *logs[2]], kind),
        items=[*table.values()],
    )
    scale = [each.encoder.encodings["price"] for each in (last, union)]
    for split in SPLITS:
        one, other = (flat(read(each, split), union, stages, kind) for each in (last, union))
        assert [each[:4] for each in one] == [each[:4] for each in other]
        prices = [
            [each[4] * s.std + s.mean for each in rows]
            for rows, s in zip((one, other), scale, strict=True)
        ]
        np.testing.assert_allclose(*prices, rtol=1e-4, atol=1e-5)
    report, expected = last.manifest["report"], union.manifest["report"]
    for name in ("rows", "rows_in", "rows_dropped", "rows_repeated", "events", "users", "items"):
        assert report[name] == expected[name], name
    assert report["label_rate"] == expected["label_rate"]
    new = last.training_set(seed=0, only_new=True)
    check_vocabularies(stages, logs)
    assert new.num_candidates == sum(
        r["at"] < 2 * DAY + VALID and r["click"] is not None for r in logs[2]
    )


def check_vocabularies(stages, logs):
    """Ids stay; new ones come behind, the most frequent first, up to max_size.

    An unlabelled row is no example, and counts where it comes before the first one to validate on.
    """
    for day, (before, after) in enumerate(pairwise(stages), start=1):
        valid_from = DAY * day + VALID
        labelled = [r["at"] for r in logs[day] if r["click"] is not None]
        first_valid = min(at for at in labelled if at >= valid_from)
        fitted_on = [
            r for r in logs[day] if r["at"] < (first_valid if r["click"] is None else valid_from)
        ]
        for name in ("uid", "iid", "device"):
            old = values(before, name)
            counts = Counter(r[name] for r in fitted_on)
            new = sorted(counts.keys() - {*old}, key=lambda each: (-counts[each], each))
            most = 6 if name == "iid" else None
            assert values(after, name) == (old + new)[: max(len(old), most) if most else None]


@pytest.mark.parametrize(
    "negatives",
    [
        {"per_positive": 3, "evaluation": 2, "within": "kind", "power": 1.0},
        {"per_positive": 2, "fresh": True, "by": "uniform", "exclude": "before"},
    ],
)
@some(2)
@given(logs=st.tuples(days(0), days(1), days(2)))
def test_negatives_are_those_of_the_union(new_workshop, read, monkeypatch, negatives, logs):
    in_small_pieces(monkeypatch)
    stages = grow(new_workshop, recipe_for("number", negatives=negatives), logs, "number")
    last, rows = stages[-1], [each for log in logs for each in log]
    train_rows = [r for r in rows if r["at"] < 2 * DAY + VALID and r["click"] is not None]
    positives = Counter(r["iid"] for r in train_rows if r["click"])
    uniform = negatives.get("by") == "uniform"
    weights = dict.fromkeys((r["iid"] for r in train_rows), 1) if uniform else positives
    first = {}
    for r in rows:
        pair = (r["uid"], r["iid"])
        first[pair] = min(r["at"], first.get(pair, r["at"]))
    until = negatives.get("exclude") == "before"

    sampler = NegativeSampler.load(last.folder / "negatives")
    names = [None, *last.items.keys.values.to_pylist()]
    who = [None, *last.users.keys.values.to_pylist()]
    pool = zip(sampler.pool.tolist(), sampler.weights.tolist(), strict=True)
    assert {names[place]: weight for place, weight in pool} == weights
    assert (np.diff(sampler.met.pairs) > 0).all()
    met = [(who[p // len(names)], names[p % len(names)]) for p in sampler.met.pairs.tolist()]
    assert {*met} == {*first}
    if until:
        assert dict(zip(met, sampler.met.first.tolist(), strict=True)) == first

    kinds = {each["iid"]: each["kind"] for each in [*ITEMS, *LATER]}
    for split in SPLITS:
        count = negatives["per_positive"]
        if split == "train":
            count = 0 if negatives.get("fresh") else count
        else:
            count = negatives.get("evaluation", count)
        of_log, expected, drawn = [], Counter(), Counter()
        for each in flat(read(last, split), last, stages, "number"):
            at, user, item = each[:3]
            if (user, item) in first and (not until or first[user, item] <= at):
                of_log.append(each)
            else:
                assert item in weights
                assert "[0.0]" in each[3]
                drawn[at, user, kinds[item] if "within" in negatives else None] += 1
        begins = [0, 2 * DAY + VALID, 2 * DAY + TEST, 3 * DAY]
        low, high = begins[SPLITS.index(split) :][:2]
        examples = [r for r in rows if low <= r["at"] < high and r["click"] is not None]
        assert Counter((*e[:3], "[1.0]" in e[3]) for e in of_log) == Counter(
            (r["at"], r["uid"], r["iid"], bool(r["click"])) for r in examples
        )
        for at, user, item, shown, _ in of_log:
            if "[1.0]" in shown:
                left = [
                    i
                    for i in weights
                    if ("within" not in negatives or kinds[i] == kinds[item])
                    and not ((user, i) in first and (not until or first[user, i] <= at))
                ]
                group = kinds[item] if "within" in negatives else None
                expected[at, user, group] += min(count, len(left))
        assert drawn == +expected
        assert last.manifest["report"]["negatives"][split] == drawn.total()
    if negatives.get("fresh"):
        anew = last.training_set(seed=0, only_new=True)
        assert anew.examples.num_requests == len(anew.times)
        assert anew.num_candidates > anew.examples.num_candidates


@pytest.mark.parametrize("sampled", [{}, {"per_positive": 1}])
def test_negatives_are_thinned_out_as_in_the_union(new_workshop, read, monkeypatch, sampled):
    """What was tested trains now, and of its negatives those that the union keeps."""
    in_small_pieces(monkeypatch)
    negatives = {"keep": 0.4, **sampled}
    logs = [day_log(day, 80) for day in (0, 1, 2)]
    stages = grow(new_workshop, recipe_for("number", negatives=negatives), logs, "number")
    union = new_workshop().prepare(
        recipe_for("number", negatives=negatives, split={"by": "time", **bounds(2, "number")}),
        log=[row for log in logs for row in log],
        items=ALL,
    )
    met = {(r["uid"], r["iid"]) for log in logs for r in log}
    for split in SPLITS:
        one, other = (
            Counter(
                (r["time"], r["user"], c["item"], c["labels"][0])
                for r in read(each, split)
                for c in r["candidates"]
                if (r["user"], c["item"]) in met
            )
            for each in (stages[-1], union)
        )
        assert one == other
        assert one
    report, expected = stages[-1].manifest["report"], union.manifest["report"]
    for name in ("rows", "rows_dropped", "negatives_kept", "negatives_counted", "requests"):
        assert report[name] == expected[name], name
    before = stages[-2].manifest["report"]["negatives_counted"]["later"]["click"]
    assert 0 < before[0] < before[1]


def day_log(day, count=40):
    random = np.random.default_rng(day)
    rows = [
        row(
            day,
            int(random.integers(1, 5)),
            int(random.integers(day, 6 + 2 * day)),
            int(random.integers(30)),
            int(random.integers(2)),
            str(random.choice(["a", "b"])),
            str(random.choice(["x", "y x"])),
        )
        for _ in range(count)
    ]
    return rows + anchors(day)


@pytest.fixture
def prepared(workshop):
    return workshop.prepare(RECIPE, log=day_log(0), items=ITEMS)


def refused(data, workshop, match, rows=None, **options):
    log = workshop.write("day", day_log(1) if rows is None else rows)
    options = {"split": bounds(1, "number"), "log": log, **options}
    with pytest.raises(FinerankError, match=match):
        append(data.folder, out=workshop.folder / "new", **options)
    assert not (workshop.folder / "new").exists()


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        (
            {
                "log": {**RECIPE["log"], "event": "what", "examples": "what = 'view'"},
                "tasks": {"click": {"event": "click", "within": 1}},
            },
            "tasks with event, whose old labels the new rows may change",
        ),
        (
            {
                "log": {"user": "uid", "item": "iid"},
                "histories": {},
                "features": {"iid": {"side": "item", "type": "id"}},
                "split": {"by": "random", "valid": 0.2, "test": 0.2},
            },
            "a log without time",
        ),
    ],
)
def test_data_sets_that_cannot_grow(workshop, parts, match):
    rows = [{**each, "what": "view"} for each in day_log(0)]
    rows += [{**each, "what": "click"} for each in rows]
    data = workshop.prepare({**RECIPE, **parts}, log=rows, items=ITEMS)
    refused(data, workshop, match)


def test_new_rows_that_do_not_fit(workshop, prepared):
    twice = [*day_log(1), day_log(0)[0]]
    refused(prepared, workshop, r"after the last time .*, 29, found 1 at or before it", twice)
    as_text = [{**each, "uid": f"u{each['uid']}"} for each in day_log(1)]
    refused(prepared, workshop, r"log\.user: expected ids of the type .* int64", as_text)
    as_number = [{**each, "iid": int(each["iid"][1:])} for each in day_log(1)]
    refused(prepared, workshop, r"log\.item: expected ids of the type .*string", as_number)
    dated, split = written(day_log(1), "moment"), bounds(1, "moment")
    refused(prepared, workshop, "a number, as before", dated, split=split)
    fractions = [{**each, "at": each["at"] + 0.5} for each in day_log(1)]
    refused(prepared, workshop, "whole numbers, as before, found fractions", fractions)
    devices = [{**each, "device": 3} for each in day_log(1)]
    refused(prepared, workshop, r"features\.device: expected ids of the type", devices)
    whole = [{**each, "at": float(each["at"])} for each in day_log(1)]
    log = workshop.write("whole", whole)
    done = append(prepared.folder, log=log, out=workshop.folder / "new", split=bounds(1, "number"))
    assert read_columns(done.folder / "test" / "requests.arrow")["time"].dtype == torch.int64


def test_text_whose_ending_says_nothing(workshop):
    for day in (0, 1):
        table = pa.Table.from_pylist(day_log(day))
        csv.write_csv(table, workshop.folder / f"day{day}.events")
    recipe = {**RECIPE, "log": {**RECIPE["log"], "format": "csv"}}
    recipe["log"]["path"] = str(workshop.folder / "day0.events")
    data, new = workshop.prepare(recipe, items=ITEMS), workshop.folder / "day1.events"
    done = append(data.folder, log=new, out=workshop.folder / "new", split=bounds(1, "number"))
    assert done.manifest["report"]["rows_in"] == 2 * len(day_log(1))
    assert str(new) in done.manifest["appended"][0]["files"]


def test_arguments_that_do_not_fit(workshop, prepared):
    refused(prepared, workshop, "log: expected files with new rows, found none", log=[])
    refused(prepared, workshop, "users: expected none, as the recipe has none", users="u.parquet")
    refused(prepared, workshop, "split: expected valid and test .* of the old rows", split=None)
    refused(prepared, workshop, "split", split={"by": "files"})
    bare = workshop.write("bare", [{"iid": each["iid"]} for each in ITEMS])
    refused(prepared, workshop, r"features\.kind", items=bare)
    moved = [{**each, "price": 1.0} for each in day_log(1)]
    bare = workshop.write("bare", [{"iid": i["iid"], "kind": i["kind"]} for i in ITEMS])
    match = r"features\.price: expected its column in the items, where it was, found it in the log"
    refused(prepared, workshop, match, moved, items=bare)


def test_a_grown_model_scores_as_the_old_one_did(workshop, prepared):
    parts = ["model={name: din, embedding_dim: 4, hidden_units: [8]}", "training.epochs=1"]
    run = train(prepared.folder, workshop.folder / "run", overrides=parts)
    day = workshop.write("day", day_log(1))
    out, split = workshop.folder / "new", bounds(1, "number")
    new = Dataset(append(prepared.folder, log=day, out=out, split=split).folder)
    bundle = load(run.folder).bundle
    model = build(new.schema, bundle.recipe.model)
    start_from(model, bundle.model, "run")
    before = np.concatenate([score(bundle.model, prepared.split(split)) for split in SPLITS])
    after = score(model, new.split("train"))
    np.testing.assert_allclose(after[: len(before)], before, atol=1e-6)
    only_new = score(model, new.training_set(seed=0, only_new=True))
    np.testing.assert_allclose(after[len(before) :], only_new, atol=1e-6)
    assert evaluate_run(run.folder, data=new.folder) == evaluate(model, new.split("test"))

    went_on = train(
        new.folder,
        workshop.folder / "next",
        start=run.folder,
        only_new=True,
        overrides=["training.learning_rate=1e-30", "training.epochs=1"],
    )
    assert went_on.metrics["model"] == "din"
    trained = load(went_on.folder).bundle.model.state_dict()
    for name, weights in model.state_dict().items():  # the steps were too small to see
        if "normalization" not in name:  # batch statistics move on
            torch.testing.assert_close(trained[name], weights, rtol=0, atol=0)
    with pytest.raises(FinerankError, match="another meaning of uid"):
        train(prepared.folder, workshop.folder / "back", start=went_on.folder)
    with pytest.raises(FinerankError, match="the features and vocabularies"):
        evaluate_run(went_on.folder, data=prepared.folder)
    with pytest.raises(FinerankError, match="a data set with appended rows"):
        train(prepared.folder, workshop.folder / "back", only_new=True)
    wider = ["model.embedding_dim=8"]
    with pytest.raises(FinerankError, match="a model of the same parts and widths"):
        train(new.folder, workshop.folder / "back", start=run.folder, overrides=wider)


def test_the_command_line(workshop, finerank):
    recipe = workshop.recipe(
        {**RECIPE, "split": {"by": "time", "valid": 0.2, "test": 0.2}},
        log=day_log(0),
        items=ITEMS,
    )
    here = workshop.folder
    (here / "recipe.yaml").write_text(recipe.to_yaml())
    half = DAY + 15
    logs = [
        workshop.write("early", [r for r in day_log(1) if r["at"] < half]),
        workshop.write("late", [r for r in day_log(1) if r["at"] >= half]),
    ]
    assert finerank("prepare", here / "recipe.yaml", "--out", here / "day0")[0] == 0
    small = ["--set", "model.embedding_dim=4", "--set", "training.epochs=1"]
    assert finerank("train", here / "day0", "--out", here / "run0", *small)[0] == 0
    code, out, _ = finerank("append", here / "day0", *logs, "--out", here / "day1")
    assert code == 0
    assert "90 rows in" in out
    shares = Dataset(here / "day1").manifest["appended"][0]["rows"]
    assert shares["test"] + shares["valid"] == pytest.approx(0.4 * 45, abs=6)
    start = ["--from", here / "run0", "--only-new", "--set", "training.epochs=1"]
    code, _, _ = finerank("train", here / "day1", "--out", here / "run1", *start)
    assert code == 0
    for run in ("run0", "run1"):
        code, out, _ = finerank("evaluate", here / run, "--data", here / "day1", "--json")
        assert code == 0
        assert json.loads(out)["click"]["rows"] == shares["test"]
    day2 = workshop.write("day2", day_log(2))
    options = ["--valid-from", 220, "--test-from", 225, "--items", workshop.write("i", LATER)]
    code, out, _ = finerank("append", here / "day1", day2, "--out", here / "day2", *options)
    assert code == 0
    assert Dataset(here / "day2").manifest["appended"][1]["rows"]["test"] == sum(
        r["at"] >= 225 for r in day_log(2)
    )
    code, _, err = finerank("append", here / "day1", logs[0], "--out", here / "day3")
    assert code == 2
    assert "rows after the last time" in err
    code, out, _ = finerank("check", here / "day2")
    assert code == 0
    assert "the files of all 3 stages are there, as they were" in out
