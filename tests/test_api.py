"""The public Python API: its names, its signatures, and that importing it is cheap."""

import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest

import finerank
from finerank.errors import FinerankError
from finerank.recipe import Recipe

SIGNATURES = {
    "prepare": ["recipe", "out", "*memory", "*engine", "*spark_master", "*progress"],
    "train": ["source", "out", "*model", "*overrides", "*start", "*only_new", "*progress"],
    "append": ["prepared", "*log", "*out", "*users", "*items", "*split", "*memory", "*progress"],
    "check": ["folder", "*sample", "*seed", "*progress"],
    "evaluate": ["run", "*split", "*data", "*progress"],
    "load": ["path", "*history"],
    "Dataset": ["folder"],
    "Ranker": ["bundle", "past"],
    "Recipe.load": ["path"],
    "Recipe.parse": ["content", "*where"],
    "Recipe.override": ["self", "assignments"],
    "Ranker.rank": [
        "self",
        "*user",
        "*candidates",
        "*time",
        "*context",
        "*history",
        "*by",
    ],
    "Ranker.predict": ["self", "rows"],
    "Ranker.history": ["self", "user", "*name", "*time"],
    "Dataset.split": ["self", "name"],
    "FinerankError": ["where", "*expected", "*found", "*fix"],
}


def test_the_public_names():
    assert finerank.__all__ == [
        "Dataset",
        "FinerankError",
        "Ranker",
        "Recipe",
        "append",
        "check",
        "evaluate",
        "load",
        "prepare",
        "train",
    ]
    assert set(finerank.__all__) <= set(dir(finerank))
    assert finerank.__version__ == version("finerank")
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        finerank.trian  # noqa: B018


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    """A star stands for keyword-only. A change here breaks someone's code."""
    target = finerank
    for part in name.split("."):
        target = getattr(target, part)
    parameters = inspect.signature(target).parameters.values()
    shown = ["*" * (p.kind is p.KEYWORD_ONLY) + p.name for p in parameters]
    assert shown == SIGNATURES[name]


def test_one_thing_one_place():
    """The same error and recipe, by whatever path they are reached."""
    assert finerank.FinerankError is FinerankError
    assert finerank.Recipe is Recipe


def test_the_whole_path(shop, tmp_path):
    recipe = finerank.Recipe.load(shop.recipe)
    prepared = finerank.prepare(recipe, tmp_path / "data")
    run = finerank.train(prepared.folder, tmp_path / "run", overrides=["training.epochs=1"])
    assert finerank.evaluate(tmp_path / "run") == run.metrics["test"]
    ranker = finerank.load(tmp_path / "run")
    assert isinstance(ranker, finerank.Ranker)
    context = {"device": "desk", "price": 1.0}
    ranked = ranker.rank(user="u1", candidates=[1000, 1001], time=5, context=context)
    assert {each.item for each in ranked} == {1000, 1001}
    assert finerank.Dataset(prepared.folder).split("test").num_candidates > 0


def test_importing_loads_no_torch():
    """Else `finerank --help` takes seconds."""
    code = (
        "import sys, finerank, finerank.cli; print({'torch', 'ibis', 'pyarrow'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_training_on_a_data_set_that_is_there_loads_no_engine(shop, tmp_path):
    """They would take memory as long as the process trains."""
    code = (
        "import sys, finerank; finerank.train(*sys.argv[1:], overrides=['training.epochs=1']);"
        "print({'duckdb', 'ibis', 'pandas', 'pyarrow'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code, shop.recipe, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
