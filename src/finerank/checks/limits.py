"""What of a recipe the checker knows; the rest is named, never passed over in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finerank.recipe import Recipe
    from finerank.settings import Settings

KNOWN = {
    "recipe": "name log users items features histories tasks split negatives model training",
    "log": "path columns separator encoding derive user item time event examples",
    "users": "path columns separator encoding derive key title",
    "items": "path columns separator encoding derive key title",
    "features": "side type column space separator min_count max_size buckets",
    "histories": "features where max_length max_age lists newest separator",
    "tasks": "label event within weight",
    "split": "by valid test valid_from test_from seed train",
    "negatives": "keep per_positive evaluation by power within exclude fresh seed",
}
KNOWN_VALUES = {
    "features.side": ("user", "item", "context", "history"),
    "features.type": ("id", "ids", "number", "vector"),
    "split.by": ("time", "last", "random", "files"),
    "negatives.exclude": ("ever", "before"),
}


def unknown_parts(recipe: Recipe) -> list[str]:
    """The settings that this checker doesn't know and that aren't at their default."""
    return [
        *_unknown("recipe", "recipe", recipe),
        *_unknown("log", "log", recipe.log),
        *_unknown("split", "split", recipe.split),
        *(each for home, table in recipe.entities.items() for each in _unknown(home, home, table)),
        *(each for name, part in recipe.tasks.items() for each in _in("tasks", name, part)),
        *(each for name, part in recipe.features.items() for each in _in("features", name, part)),
        *(each for name, part in recipe.histories.items() for each in _in("histories", name, part)),
        *(_unknown("negatives", "negatives", recipe.negatives) if recipe.negatives else ()),
    ]


def of_part(limits: list[str], *parts: str) -> list[str]:
    """The limits within the given parts of the recipe."""
    return [each for each in limits if any(each.startswith(f"{part}.") for part in parts)]


def _in(part: str, name: str, settings: Settings) -> Iterator[str]:
    return _unknown(part, f"{part}.{name}", settings)


def _unknown(part: str, where: str, settings: Settings) -> Iterator[str]:
    known = KNOWN[part].split()
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        default = field.get_default(call_default_factory=True)
        if key not in known and value != default:
            yield f"{where}.{key}"
        if value not in KNOWN_VALUES.get(f"{part}.{key}", (value,)):
            yield f"{where}.{key}: {value}"
