"""The kinds of options that models have, and what of them is allowed."""

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeAlias

from pydantic import Field

from finerank.validation import WrongSetting

Size: TypeAlias = Annotated[int, Field(ge=1)]
Units: TypeAlias = Sequence[Size]  # the widths of layers
SomeUnits: TypeAlias = Annotated[Sequence[Size], Field(min_length=1)]
Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


def with_kind(option: object) -> object:
    """An option in its long form: ``mean`` is ``{kind: mean}``."""
    if isinstance(option, str):
        return {"kind": option}
    if isinstance(option, Mapping) and "kind" not in option:
        found = ", ".join(map(str, option)) or "nothing"
        raise WrongSetting(expected="a kind, beside its own options", found=found)
    return option
