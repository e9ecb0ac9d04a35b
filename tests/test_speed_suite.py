"""The speed benchmark's own parts, and finerank's side of each kind of case at a tiny size."""

import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finerank.models.registry import check_options
from finerank.recipe import Recipe

FOLDER = Path(__file__).parents[1] / "benchmarks" / "speed"
NAMES = sorted(file.stem for file in FOLDER.glob("*.py"))
TINY = {"rows": 8000, "batch_size": 200, "items": 300, "categories": 20}


@pytest.fixture(scope="module")
def suite():
    """The suite's modules, which are scripts beside each other and no package."""
    assert not set(NAMES) & set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield __import__
    for name in NAMES:
        sys.modules.pop(name, None)


def tiny(suite, name, **more):
    case = suite("cases").ALL[name]
    sizes = tuple(min(size, 50) for size in case.id_sizes)
    units = {"embedding_dim": 4, "hidden_units": (8, 4), "id_sizes": sizes}
    return replace(case, **TINY | units | more)


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("din-tailed", "end to end"),
        ("din-impressions", "step"),
        ("dcn-1M", "end to end"),
        ("mmoe", "step"),
        ("evaluation", "predict and metrics"),
        ("evaluation", "metrics"),
        ("preparation", "prepare"),
    ],
)
def test_finerank_is_measured(suite, tmp_path, name, measure):
    case = tiny(suite, name)
    assert measure in case.measures
    result = suite("one").measured(case, "finerank", measure, tmp_path, seconds=0.02, device="cpu")
    assert result["samples"] > 0
    assert result["seconds"] > 0
    assert result["samples_per_s"] == pytest.approx(result["samples"] / result["seconds"])
    assert result["memory_before_mb"] <= result["memory_peak_mb"]
    if case.measures == suite("cases").TRAINING:
        assert result["samples"] / result["steps"] == pytest.approx(case.batch_size, rel=0.2)


def test_every_case_has_a_valid_recipe(suite):
    for case in suite("cases").ALL.values():
        recipe = Recipe.parse(suite("finerank_side").recipe_of(case, Path("raw")))
        assert set(recipe.tasks) == set(case.tasks)
        assert tuple(check_options(recipe.model).get("hidden_units", case.hidden_units)) == (
            case.hidden_units
        )


@pytest.mark.parametrize("name", ["din-impressions", "din-full", "dcn-1M", "mmoe"])
def test_floor_is_measured(suite, tmp_path, name):
    result = suite("one").measured(
        tiny(suite, name), "floor", "step", tmp_path, seconds=0.02, device="cpu"
    )
    assert result["samples_per_s"] > 0


def test_the_floor_of_the_dnn_is_its_layers(suite, tmp_path):
    case = tiny(suite, "dnn-1M")
    floor = suite("floor_side").Side(case, tmp_path, "cpu")
    width = 26 * 4 + 13
    assert floor.products(0, 0) == [(200, width, 8), (200, 8, 4), (200, 4, 1)]


def test_every_library_gets_the_same_histories(suite, tmp_path):
    """finerank's windows, the pandas join, and the padded columns, of the same examples."""
    case = tiny(suite, "din-tailed", max_length=7)
    raw = suite("synthetic").make(case, tmp_path)
    arrays = suite("synthetic").load(raw)
    joined = suite("joined").joined(raw, case.max_length)
    columns, labels = suite("padded").columns_of(case, arrays)

    lengths = np.diff(arrays.offsets)
    items = {u: tuple(arrays.history[arrays.offsets[u] :][:n]) for u, n in enumerate(lengths)}
    assert max(map(len, items.values())) == 7
    for user, steps, categories in zip(
        joined["user"], joined["items"], joined["categories"], strict=True
    ):
        assert tuple(steps) == items[user]
        assert tuple(categories) == tuple(arrays.category_of_item[steps])
    shorter = suite("joined").joined(raw, 3)
    assert all(
        tuple(steps) == items[user][-3:]
        for user, steps in zip(shorter["user"], shorter["items"], strict=True)
    )
    for user, row, length in zip(
        columns["user"], columns["hist_item"], columns["length"], strict=True
    ):
        assert tuple(row[:length]) == items[user]
        assert not row[length:].any()

    train = suite("finerank_side").Side(case, tmp_path, "cpu").dataset.split("train")
    assert train.num_candidates == len(labels) == case.rows
    start, end = train.windows["past"]
    assert sorted((end - start).tolist()) == sorted(columns["length"].tolist())
    sizes = {feature.name: feature.size for feature in train.schema.features}
    assert sizes == arrays.sizes


def test_long_tailed_lengths(suite, tmp_path):
    synthetic = suite("synthetic")
    case = tiny(suite, "din-tailed", rows=50_000, items=1000)
    lengths = np.diff(synthetic.load(synthetic.make(case, tmp_path)).offsets)[1:]
    assert lengths.mean() == pytest.approx(9, abs=0.5)
    assert lengths.max() == 100
    assert np.median(lengths) < 6


def test_the_clock_leaves_the_warm_up_out(suite, monkeypatch):
    measure = suite("measure")
    now = iter([0.0, *np.arange(10.0, 100.0)])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(now)))
    clock = measure.Clock(5.0)
    with suppress(measure.Enough):
        while True:
            clock.tick(100)
    # ends of steps: 10, 11, 12 warm up; 13 to 17 count
    assert clock.result() == {
        "samples": 500,
        "seconds": 5.0,
        "steps": 5,
        "samples_per_s": 100.0,
        "startup_s": 10.0,
    }


def test_the_clock_waits_for_a_device_where_counting_begins_and_ends(suite, monkeypatch):
    measure, waits = suite("measure"), []
    now = iter([0.0, *np.arange(10.0, 100.0)])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(now)))
    clock = measure.Clock(5.0, wait=lambda: waits.append(len(clock.ticks)))
    with suppress(measure.Enough):
        while True:
            clock.tick(100)
    # the third step was told at 12 and done at 13, the eighth told at 18 and done at 19
    assert waits == [3, 8]
    assert (clock.result()["steps"], clock.result()["seconds"]) == (5, 6.0)


def test_the_clock_ends_with_the_epoch(suite):
    measure = suite("measure")
    clock = measure.Clock(1e9)
    clock.last = 4
    for _ in range(3):
        clock.tick(1)
    with pytest.raises(measure.Enough):
        clock.tick(1)
    assert clock.result()["steps"] == 3


def test_the_default_settings_are_measured(suite):
    assert suite("default_side").Side.training == {}
    assert suite("finerank_side").Side.training["precision"] == "float32"


def test_the_page(suite):
    def measurement(library, speed, measure="step", **more):
        speeds = {"samples_per_s": speed, "memory_before_mb": 1.0, "memory_peak_mb": 2.0}
        return {"case": "mmoe", "library": library, "measure": measure, **speeds, **more}

    results = {
        "date": "2026-01-01",
        "cpu": "a processor",
        "threads": 2,
        "device": "cpu",
        "device_name": "",
        "command": "python run.py",
        "measurements": [
            *(measurement("finerank", speed) for speed in (10.0, 30.0, 20.0)),
            measurement("default", 35.0),
            measurement("rechub", 4.0),
            measurement("deepctr", 5.0),
            measurement("finerank", 1.0, "end to end"),
            measurement("deepctr", 1.0, "end to end", memory_peak_mb=8.0),
            measurement("rechub", 1.0, "end to end", memory_peak_mb=4.0),
            measurement("floor", 40.0),
            {"case": "mmoe", "library": "nextrec", "measure": "step", "error": "no memory"},
        ],
    }
    page = suite("page").page(json.loads(json.dumps(results)), None)
    assert "| finerank | 1 (once) | 20 (10 to 30) | 50% |" in page
    assert "| NextRec |  | failed: no memory |" in page
    assert (
        "step: 4.00 times the fastest peer, DeepCTR-Torch; 7.00 times with its default settings."
        in page
    )
    assert "Peak memory, end to end: 0.50 of the leanest peer's, torch-rechub." in page
    assert "a processor, 2 threads. " in page
    on_a_gpu = suite("page").page(results | {"device": "cuda", "device_name": "a GPU"}, None)
    assert "a processor, 2 threads, on one a GPU. " in on_a_gpu


def test_names_and_letters(suite):
    cases = suite("cases")
    assert [case.name for case in cases.chosen(["a", "mmoe"])] == ["din-tailed", "mmoe"]
    assert {case.letter for case in cases.chosen([])} == set("abcdefg")
    assert sum(cases.criteo_like(1_000_000)) == pytest.approx(1_000_000, rel=0.01)


def test_later_rounds_repeat_the_two_fastest_others_of_each_measure(suite):
    run = suite("run")
    rates = {
        ("finerank", "step"): 1.0,
        ("default", "step"): 1.0,
        ("floor", "step"): 9.0,
        ("fuxictr", "step"): 2.0,
        ("rechub", "step"): 3.0,
        ("deepctr", "step"): 4.0,
        ("fuxictr", "end to end"): 5.0,
        ("rechub", "end to end"): 1.0,
        ("deepctr", "end to end"): 2.0,
    }
    kept = run.worth_repeating(list(rates), rates)
    assert kept == [
        ("finerank", "step"),
        ("default", "step"),
        ("floor", "step"),
        ("rechub", "step"),
        ("deepctr", "step"),
        ("fuxictr", "end to end"),
        ("deepctr", "end to end"),
    ]


def test_cases_that_are_compared_take_their_rounds_in_turn(suite, tmp_path, monkeypatch):
    run, done = suite("run"), []

    def one(case, library, measure, given):
        done.append((case.name, library))
        result = {"case": case.name, "library": library, "measure": measure}
        return result | {"samples_per_s": 1.0}

    monkeypatch.setattr(run, "one", one)
    monkeypatch.setattr(run, "write", lambda results, file: None)
    names = ["scaling-10k-ids", "scaling-10M-ids"]
    run.run(run.parser().parse_args([*names, "--rounds", "3", "--out", str(tmp_path)]))
    assert done == 3 * [(name, "finerank") for name in names]
    kept = json.loads((tmp_path / "results.json").read_text())["measurements"]
    assert [(each["round"], each["case"]) for each in kept] == [
        (round_, name) for round_ in range(3) for name in names
    ]
    done.clear()
    step = [
        "din-tailed",
        "--only",
        "finerank",
        "--rounds",
        "1",
        "--out",
        str(tmp_path),
        "--measures",
    ]
    run.run(run.parser().parse_args([*step, "step"]))
    run.run(run.parser().parse_args([*step, "end to end"]))
    assert done == [
        (name, each) for name in ["din-tailed"] for each in ("finerank", "floor", "finerank")
    ]
    kept = json.loads((tmp_path / "results.json").read_text())["measurements"]
    of_case = [(each["library"], each["measure"]) for each in kept if each["case"] == "din-tailed"]
    assert of_case == [("finerank", "step"), ("floor", "step"), ("finerank", "end to end")]
    done.clear()
    run.run(run.parser().parse_args(["a", "b", "--only", "finerank", "--out", str(tmp_path)]))
    assert list(dict.fromkeys(name for name, _ in done)) == ["din-tailed", "din-full"]
    assert [name for name, _ in done] == sorted((name for name, _ in done), reverse=True)
