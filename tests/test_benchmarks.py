"""The benchmarks' recipes and variants are valid; their data isn't needed for that."""

from pathlib import Path

import pytest
import yaml

from finerank.models.registry import check_options, options_of
from finerank.recipe import Recipe
from finerank.settings import ModelSettings

BENCHMARKS = sorted(Path(__file__).parents[1].glob("benchmarks/*/benchmark.yaml"))
VARIANTS = [
    pytest.param(file.parent, variant, id=f"{file.parent.name}: {name}")
    for file in BENCHMARKS
    for name, variant in yaml.safe_load(file.read_text())["variants"].items()
]


@pytest.mark.parametrize(("folder", "variant"), VARIANTS)
def test_a_variant_is_a_valid_recipe(folder, variant):
    assert variant.keys() <= {"recipe", "data", "model", "set", "tasks", "published"}
    assert isinstance(variant.get("published", ""), str)
    recipe = Recipe.parse(
        yaml.safe_load((folder / variant.get("recipe", "recipe.yaml")).read_text())
    )
    assert set(variant.get("tasks", ())) <= set(recipe.tasks)
    recipe = recipe.override(variant.get("set", []))
    model = variant.get("model", recipe.model.name)
    known = options_of(model).model_fields
    written = {change.split("=")[0] for change in variant.get("set", [])}
    assert {key.removeprefix("model.") for key in written if key.startswith("model.")} <= set(known)
    options = {k: v for k, v in recipe.model.options.items() if k in known}
    check_options(ModelSettings(name=model, **options))
