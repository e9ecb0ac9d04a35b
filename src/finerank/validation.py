"""What pydantic says of a settings file, said as one of our errors, with the key that is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel, ValidationError

_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
_MISSING_KEY = ("missing", "missing_keyword_only_argument")


class WrongSetting(ValueError):  # noqa: N818  (a finding that a validator raises, not an error class of ours)
    """What a validator found: expected, found, and the key where it isn't the validated one."""

    def __init__(self, *, expected: str, found: str, key: str = "", fix: str = "") -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected, self.found, self.key, self.fix = expected, found, key, fix


def as_finerank_error(
    error: ValidationError, root: type[BaseModel], content: object, where: str
) -> FinerankError:
    """The first problem that pydantic found.

    Args:
        error: what pydantic raised.
        root: the settings that were validated.
        content: what was read, before validation.
        where: the file or option that it came from.
    """
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    cause = problem.get("ctx", {}).get("error")
    key = ".".join(_written(path, content, missing=problem["type"] in _MISSING_KEY))
    fix = ""
    if isinstance(cause, WrongSetting):
        key = ".".join(part for part in (key, cause.key) if part)
        expected, found, fix = cause.expected, cause.found, cause.fix
    elif problem["type"] in _UNKNOWN_KEY:
        known = _keys_at(root, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        expected = f"one of the keys {', '.join(known)}" if known else "a key that is known here"
        found, fix = f"unknown key {path[-1]!r}", f"Did you mean {near[0]!r}?" if near else ""
    elif problem["type"] in _MISSING_KEY:
        expected, found = "this key", "nothing"
    elif problem["type"] == "union_tag_invalid":
        ctx = problem["ctx"]
        expected, found = f"{ctx['discriminator']} of {ctx['expected_tags']}", repr(ctx["tag"])
    else:
        expected, found = problem["msg"][0].lower() + problem["msg"][1:], repr(problem["input"])
    return FinerankError(
        f"{where}: {key}" if key else where, expected=expected, found=found, fix=fix
    )


def _written(path: list[str], content: object, *, missing: bool) -> Iterator[str]:
    """The parts of a path that a person wrote; pydantic adds tags and types of its own."""
    for place, part in enumerate(path):
        if isinstance(content, Mapping) and part in map(str, content):
            content = next(value for key, value in content.items() if str(key) == part)
            yield part
        elif isinstance(content, list) and part.isdigit() and int(part) < len(content):
            content = content[int(part)]
            yield part
        elif missing and place == len(path) - 1:
            yield part


def _keys_at(root: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a place in the settings knows, as the JSON schema lists them."""
    schema = root.model_json_schema()
    nodes = [schema]
    for part in path:
        below = [
            child for node in nodes for child in _children(_resolve(node, schema), part, schema)
        ]
        nodes = below or nodes  # a part that names a type, not a place
    known: dict[str, None] = {}
    for node in nodes:
        for each in _alternatives(_resolve(node, schema), schema):
            known |= dict.fromkeys(each.get("properties", {}))
    return list(known)


def _children(
    node: Mapping[str, Any], part: str, schema: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """What lies below a key, or below the tag of one kind of settings."""
    for each in _alternatives(node, schema):
        if part in each.get("properties", {}):
            yield each["properties"][part]
        elif isinstance(each.get("additionalProperties"), dict):
            yield each["additionalProperties"]
    tags = [node, *node.get("anyOf", []), *node.get("oneOf", [])]
    for each in tags:
        if part in (mapping := each.get("discriminator", {}).get("mapping", {})):
            yield {"$ref": mapping[part]}


def _alternatives(
    node: Mapping[str, Any], schema: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    if "anyOf" in node and "discriminator" not in node:
        for each in node["anyOf"]:
            yield from _alternatives(_resolve(each, schema), schema)
    else:
        yield node


def _resolve(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node
