"""The recipes that come with the package: public data sets as their owners distribute them."""

from __future__ import annotations

from importlib.resources import files

from finerank.errors import FinerankError, did_you_mean


def shipped_recipes() -> list[str]:
    """The names of the data sets that have a recipe."""
    folder = files("finerank") / "recipes"
    names = (each.name for each in folder.iterdir() if each.name.endswith(".yaml"))
    return sorted(name.removesuffix(".yaml") for name in names)


def shipped_recipe(name: str) -> str:
    """The recipe of a data set, as text.

    Raises:
        FinerankError: there is none of that name.
    """
    names = shipped_recipes()
    if name not in names:
        hint = did_you_mean(name, names)
        raise FinerankError(
            "--for", expected="a data set with a recipe", found=repr(name), fix=hint
        )
    return (files("finerank") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
