"""What pydantic says of a settings file, said as one of our errors, with the key that is wrong."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel, ValidationError


class WrongSetting(ValueError):  # noqa: N818  (a finding that a validator raises, not an error class of ours)
    """What a validator found: expected, found, and the key where it isn't the validated one."""

    def __init__(self, *, expected: str, found: str, key: str = "", fix: str = "") -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected, self.found, self.key, self.fix = expected, found, key, fix


def as_finerank_error(error: ValidationError, root: type[BaseModel], where: str) -> FinerankError:
    """The first problem that pydantic found."""
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    known = _keys_at(root, path[:-1])
    cause = problem.get("ctx", {}).get("error")
    key = ".".join(_without_tags(root, path))
    if isinstance(cause, WrongSetting):
        key = ".".join(part for part in (key, cause.key) if part)
        expected, found, fix = cause.expected, cause.found, cause.fix
    elif problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], known, n=1)
        expected = f"one of the keys {', '.join(known)}" if known else "no such key"
        found = f"unknown key {path[-1]!r}"
        fix = f"Did you mean {near[0]!r}?" if near else ""
    elif problem["type"] == "missing":
        expected, found, fix = "this key", "nothing", ""
    else:
        expected = problem["msg"][0].lower() + problem["msg"][1:]
        found, fix = repr(problem["input"]), ""
    return FinerankError(
        f"{where}: {key}" if key else where, expected=expected, found=found, fix=fix
    )


def _without_tags(root: type[BaseModel], path: list[str]) -> list[str]:
    """A path without the tags that pydantic adds where a key chooses the kind of settings."""
    schema = root.model_json_schema()
    node, kept = schema, []
    for part in path:
        node, is_tag = _step(_resolve(node, schema), part)
        if not is_tag:
            kept.append(part)
    return kept


def _keys_at(root: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a place in the settings knows."""
    schema = root.model_json_schema()
    node = schema
    for part in path:
        node, _ = _step(_resolve(node, schema), part)
    return list(_resolve(node, schema).get("properties", {}))


def _step(node: Mapping[str, Any], part: str) -> tuple[dict[str, Any], bool]:
    """The node below a key, and whether the key is a tag."""
    if part in node.get("properties", {}):
        return node["properties"][part], False
    if part in (mapping := node.get("discriminator", {}).get("mapping", {})):
        return {"$ref": mapping[part]}, True
    below = node.get("additionalProperties")
    return (below if isinstance(below, dict) else {}), False


def _resolve(node: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    if "anyOf" in node:
        node = next(each for each in node["anyOf"] if each.get("type") != "null")
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return dict(node)
