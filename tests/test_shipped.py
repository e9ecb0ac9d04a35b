"""Recipes that come with the package, from the command line."""

import pytest

from finerank.recipe import Recipe
from finerank.shipped import shipped_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_printed_and_valid(finerank, tmp_path, name):
    code, out, _ = finerank("recipe", "--for", name)
    assert code == 0
    assert out == shipped_recipe(name)
    (tmp_path / "recipe.yaml").write_text(out, encoding="utf-8")
    assert Recipe.load(tmp_path / "recipe.yaml").tasks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "movielens"], "--for: expected a data set with a recipe, found 'movielens'."),
        ([], "expected either a log or --for, found neither"),
        (["log.csv", "--for", "movielens-100k"], "expected either a log or --for, found both"),
    ],
)
def test_what_there_is_no_recipe_for(finerank, arguments, message):
    code, _, err = finerank("recipe", *arguments)
    assert code == 2
    assert message in err
