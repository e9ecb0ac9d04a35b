"""The JSON schema of the recipe: up to date, and with what the settings alone don't say."""

import json
import re

import pytest

from finerank.models.registry import MODELS, options_of
from finerank.recipe import Recipe
from finerank.schema_file import SCHEMA_FILE, recipe_json_schema, schema_text

SCHEMA = recipe_json_schema()
MODEL_KINDS = {kind["title"]: kind for kind in SCHEMA["$defs"]["ModelSettings"]["oneOf"]}


def test_the_file_is_up_to_date():
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        f"{SCHEMA_FILE.name} is stale: run `python -m finerank.schema_file`"
    )


def test_it_says_which_json_schema_it_is():
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_reference_has_its_definition():
    references = re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(SCHEMA))
    assert set(references) == set(SCHEMA["$defs"])


def test_it_has_every_part_of_a_recipe():
    assert set(SCHEMA["properties"]) == set(Recipe.model_fields)
    assert SCHEMA["required"] == ["log", "features", "tasks", "split"]
    assert SCHEMA["additionalProperties"] is False


def test_every_model_is_there_once():
    assert list(MODEL_KINDS) == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_its_own_options_and_their_defaults(name):
    kind = MODEL_KINDS[name]
    own = {option: each.default for option, each in options_of(name).model_fields.items()}
    written = dict(kind["properties"])
    assert written.pop("name") == {"const": name}
    assert list(written) == list(own)
    for option, default in own.items():
        found = written[option]["default"]
        assert (tuple(found) if isinstance(default, tuple) else found) == default
        assert written[option]["description"]
    assert kind["additionalProperties"] is False


def test_only_the_default_model_may_go_without_its_name():
    unnamed = [title for title, kind in MODEL_KINDS.items() if "name" not in kind["required"]]
    assert unnamed == ["din"]


def test_a_task_may_be_its_label_alone():
    tasks = SCHEMA["properties"]["tasks"]
    short, full = tasks["additionalProperties"]["anyOf"]
    assert short["type"] == "string"
    assert full == {"$ref": "#/$defs/TaskSettings"}
