"""Settings of features and histories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from finerank.settings.base import Duration, FeatureType, Name, Settings, Side
from finerank.validation import WrongSetting


class FeatureSettings(Settings):
    """One input of the model."""

    side: Side = Field(
        description="whose it is: the user's, the item's, the moment's (context), "
        "or known for past events only (history)"
    )
    type: FeatureType = Field(
        description="id: one categorical value; ids: several; number; vector: pretrained, "
        "a list of floats of fixed size"
    )
    column: str | None = Field(
        default=None, description="its column; the feature's name if left out"
    )
    space: Name | None = Field(
        default=None,
        description="id space; features of one space share a vocabulary and an embedding table",
    )
    separator: str | None = Field(
        default=None, min_length=1, description="for ids held in one text: what stands between them"
    )
    min_count: int = Field(
        default=1, ge=1, description="ids seen less often in the training period are unknown"
    )
    max_size: int | None = Field(
        default=None, ge=1, description="ids kept, the most frequent; the others are unknown"
    )
    buckets: int | None = Field(
        default=None,
        ge=1,
        description="for ids without bound: as many ids, by hash; no vocabulary is kept",
    )

    @model_validator(mode="after")
    def _fits_its_type(self) -> FeatureSettings:
        if self.separator is not None and self.type != "ids":
            raise WrongSetting(expected="type: ids beside separator", found=f"type: {self.type}")
        if self.type not in ("id", "ids"):
            for key in ("space", "min_count", "max_size", "buckets"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise WrongSetting(
                        expected=f"type: id or ids beside {key}", found=f"type: {self.type}"
                    )
        if self.buckets is not None and (self.min_count > 1 or self.max_size is not None):
            raise WrongSetting(expected="no min_count or max_size beside buckets", found="one")
        return self


class HistorySettings(Settings):
    """A user's past events: those strictly before the request, the most recent kept.

    Or steps that each row of the log holds ready-made, in lists.
    """

    features: list[str] = Field(
        default_factory=list,
        min_length=1,
        description="features of each step; beside lists, those of the lists where left out",
    )
    where: str | None = Field(default=None, description="SQL condition: which events enter")
    max_length: int = Field(default=50, ge=1, description="steps kept, the most recent")
    max_age: Duration | None = Field(
        default=None,
        description="how long before the request a step may be: 30s, 45m, 12h or 7d, or a number "
        "in the unit of a time column of numbers",
    )
    lists: dict[str, str] | None = Field(
        default=None,
        min_length=1,
        description="in place of events: feature -> column of the log that holds the row's steps, "
        "a list or text with a separator. The other features come from the item table, by the "
        "item's id in a list",
    )
    newest: Literal["last", "first"] = Field(
        default="last", description="at which end of the lists the most recent step is"
    )
    separator: str | None = Field(
        default=None, min_length=1, description="for lists held in text: what stands between steps"
    )

    @model_validator(mode="before")
    @classmethod
    def _features_of_lists(cls, content: object) -> object:
        if isinstance(content, Mapping) and isinstance(content.get("lists"), Mapping):
            return {"features": list(content["lists"]), **content}
        return content

    @model_validator(mode="after")
    def _one_way(self) -> HistorySettings:
        if not self.features:
            raise WrongSetting(key="features", expected="this key, or lists", found="nothing")
        if self.lists is None:
            alone = ("newest", "separator")
            expected = "lists beside"
        else:
            alone = ("where", "max_age")
            expected = "no lists, which hold their steps ready-made, beside"
        for key in alone:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise WrongSetting(expected=f"{expected} {key}", found=repr(getattr(self, key)))
        if unknown := [name for name in self.lists or () if name not in self.features]:
            raise WrongSetting(
                key="lists", expected="lists of the history's features", found=repr(unknown[0])
            )
        return self
