"""What all settings have in common: no unknown keys, names, durations, times."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
)

from finerank.validation import WrongSetting

Side = Literal["user", "item", "context", "history"]
FeatureType = Literal["id", "ids", "number", "vector"]
Entity = Literal["users", "items"]
SplitName = Literal["train", "valid", "test"]

SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")


def _as_name(name: str) -> str:
    if not name.replace("_", "").replace("-", "").isalnum():
        raise WrongSetting(expected="letters, digits, '_' and '-' in a name", found=repr(name))
    return name


Name = Annotated[str, AfterValidator(_as_name)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


def _as_text(time: object) -> object:
    return time.isoformat() if isinstance(time, datetime.date) else time


def _as_duration(duration: float | str) -> float | str:
    if isinstance(duration, str) and not re.fullmatch(r"\d+[smhd]", duration):
        raise WrongSetting(expected="a duration such as 30m, 12h or 7d", found=repr(duration))
    return duration


Duration = Annotated[PositiveInt | PositiveFloat | str, AfterValidator(_as_duration)]
Time = Annotated[int | float | str, BeforeValidator(_as_text)]


class Settings(BaseModel):
    """A part of the recipe; an unknown key in it is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
