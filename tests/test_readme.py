import re
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from finerank.data.simulator import simulate, write
from finerank.recipe import Recipe

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")


def blocks(name, language):
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    simulation = simulate(users=60, requests_per_user=12, candidates_per_request=4, seed=0)
    write(simulation, tmp_path / "raw")
    shutil.copy(str(files("finerank") / "recipes" / "simulated.yaml"), tmp_path / "recipe.yaml")
    monkeypatch.chdir(tmp_path)
    for block in blocks("README.md", "python"):
        exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "log_loss_nats" in printed
    assert len(re.findall(r"^\d None \{'click': 0\.\d+\}$", printed, flags=re.MULTILINE)) == 3


@pytest.mark.parametrize("name", READMES)
def test_the_recipe_of_the_readme_is_the_one_of_the_demo(name):
    (shown,) = blocks(name, "yaml")
    shipped = files("finerank").joinpath("recipes/movielens-100k.yaml").read_text()
    assert shown == shipped
    assert Recipe.parse(yaml.safe_load(shown)).name == "movielens-100k"


def test_both_languages_show_the_same():
    assert blocks("README.md", "python") == blocks("README.zh-CN.md", "python")
    english, chinese = (re.findall(r"\d\.\d{4}", (ROOT / n).read_text()) for n in READMES)
    assert english == chinese
