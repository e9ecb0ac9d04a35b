"""Settings of tasks, and of the negatives beside their positives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from finerank.settings.base import Duration, Fraction, Name, Settings
from finerank.validation import WrongSetting


class TaskSettings(Settings):
    """One objective: an expression over an example's own row, or what followed it in the log."""

    label: str | None = Field(
        default=None, description="SQL expression over the log's columns: 1 or true, 0 or false"
    )
    event: Name | None = Field(
        default=None,
        description="instead of label: 1 where an event of this type, of the same user and item, "
        "followed within the horizon; its value in the column log.event",
    )
    within: Duration | None = Field(
        default=None,
        description="the horizon, from the example's own time on: 30s, 45m, 12h or 7d, or a "
        "number in the unit of a time column of numbers",
    )
    weight: float = Field(default=1.0, gt=0, description="of its loss in the sum")

    @model_validator(mode="after")
    def _one_way(self) -> TaskSettings:
        if (self.label is None) == (self.event is None):
            found = "neither" if self.label is None else "both"
            raise WrongSetting(expected="either label or event", found=found)
        if (self.event is None) != (self.within is None):
            found = "event alone" if self.within is None else "within beside label"
            raise WrongSetting(expected="event and within together", found=found)
        return self


class NegativeSettings(Settings):
    """Negatives: which of those that the log has are kept, and which are sampled beside them.

    Sampled are items beside each positive that its user never met. A positive is an example with a
    label of 1. The pool are the items of the training rows.
    """

    keep: Fraction | None = Field(
        default=None,
        description="share of the training rows whose labels are all 0 that is trained on; "
        "probabilities are corrected for it",
    )
    per_positive: int = Field(
        default=0, ge=0, description="sampled for each positive of the training set"
    )
    evaluation: int | None = Field(
        default=None, ge=0, description="for each of the other two; as per_positive if left out"
    )
    by: Literal["uniform", "popularity"] = Field(
        default="popularity", description="popularity: the positives of an item in training"
    )
    power: float = Field(
        default=0.75, ge=0, description="of the popularity; nothing beside uniform"
    )
    within: str | None = Field(
        default=None,
        description="feature of the item table, type id, such as its category: a negative has "
        "the same as its positive",
    )
    exclude: Literal["ever", "before"] = Field(
        default="ever",
        description="what the user met: at all in the log, or up to the request (then an item "
        "met later can be a negative, as it was when nobody knew)",
    )
    fresh: bool = Field(
        default=False,
        description="training draws its negatives anew in each epoch; those of validation and test "
        "stay, the same for every model",
    )
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _something_to_draw(self) -> NegativeSettings:
        if self.fresh and not self.per_positive:
            raise WrongSetting(expected="per_positive of at least 1 beside fresh", found="0")
        return self

    @property
    def sampled(self) -> bool:
        """Whether any are sampled."""
        return self.per_positive > 0 or bool(self.evaluation)


def short_tasks(tasks: object) -> object:
    """Tasks written as their label alone, in the long form."""
    if isinstance(tasks, Mapping):
        return {k: {"label": v} if isinstance(v, str) else v for k, v in tasks.items()}
    return tasks
