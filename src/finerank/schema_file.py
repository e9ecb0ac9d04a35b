"""The JSON schema of the recipe, for editors: the recipe's own, with every model's options."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from finerank.models.registry import MODELS, options_of
from finerank.recipe import Recipe
from finerank.settings import ModelSettings

SCHEMA_FILE = Path(__file__).parent / "recipe.schema.json"


def recipe_json_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a recipe as people write it.

    It says more than the settings themselves do: which options each named model has, and that a
    task may be its label alone.
    """
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    definitions["ModelSettings"] = {
        "description": definitions["ModelSettings"]["description"],
        "oneOf": [_model_schema(name, definitions) for name in MODELS],
    }
    tasks = schema["properties"]["tasks"]
    label = definitions["TaskSettings"]["properties"]["label"]
    short = {"type": "string", "description": label["description"]}
    tasks["additionalProperties"] = {"anyOf": [short, tasks["additionalProperties"]]}
    schema["properties"]["split"].pop("discriminator")  # of OpenAPI, not of JSON Schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "finerank recipe",
    }


def _model_schema(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The model part of a recipe that names this model; shared definitions are added."""
    options = options_of(name).model_json_schema()
    definitions.update(options.pop("$defs", {}))
    texts = _option_texts(name)
    properties = {
        option: {**settings, "description": texts[option]} if option in texts else settings
        for option, settings in options.get("properties", {}).items()
    }
    is_default = name == ModelSettings.model_fields["name"].default
    return {
        "title": name,
        "description": (inspect.getdoc(MODELS[name]) or name).splitlines()[0],
        "type": "object",
        "properties": {"name": {"const": name}, **properties},
        "required": [*([] if is_default else ["name"]), *options.get("required", [])],
        "additionalProperties": False,
    }


def _option_texts(name: str) -> dict[str, str]:
    """What the docstring of a model's constructor says of each option."""
    model = MODELS[name]
    text = inspect.getdoc(model.__init__) or ""
    _, _, arguments = text.partition("Args:\n")
    entries = re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", arguments, flags=re.MULTILINE)
    return {option: " ".join(words.split()) for option, words in entries}


def schema_text() -> str:
    """What the file holds."""
    return json.dumps(recipe_json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
