"""Settings of the split into training, validation and test set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from finerank.settings.base import Fraction, Settings, Time
from finerank.validation import WrongSetting


def _leave_some(valid: float, test: float) -> None:
    if valid + test >= 1:
        raise WrongSetting(expected="shares that leave rows to train on", found=f"{valid}, {test}")


class TimeSplit(Settings):
    """The newest events are the test set, those before them the validation set."""

    by: Literal["time"]
    valid: Fraction | None = Field(default=None, description="share of the rows")
    test: Fraction | None = Field(default=None, description="share of the rows")
    valid_from: Time | None = Field(default=None, description="first time of validation")
    test_from: Time | None = Field(default=None, description="first time of test")

    @model_validator(mode="after")
    def _one_way(self) -> TimeSplit:
        shares = self.valid is not None and self.test is not None
        times = self.valid_from is not None and self.test_from is not None
        any_share = self.valid is not None or self.test is not None
        any_time = self.valid_from is not None or self.test_from is not None
        if not ((shares and not any_time) or (times and not any_share)):
            given = ", ".join(sorted(self.model_fields_set - {"by"})) or "none of them"
            raise WrongSetting(
                expected="either valid and test (shares) or valid_from and test_from (times)",
                found=given,
            )
        if self.valid is not None and self.test is not None:
            _leave_some(self.valid, self.test)
        return self


class LastSplit(Settings):
    """The last moments of each user are the test set, those before them the validation set."""

    by: Literal["last"]
    valid: int = Field(default=1, ge=1, description="moments a user; rows of one time are one")
    test: int = Field(default=1, ge=1, description="moments a user; rows of one time are one")


class RandomSplit(Settings):
    """Rows drawn at random."""

    by: Literal["random"]
    valid: Fraction = Field(default=0.1, description="share of the rows")
    test: Fraction = Field(default=0.1, description="share of the rows")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _some_left(self) -> RandomSplit:
        _leave_some(self.valid, self.test)
        return self


class FilesSplit(Settings):
    """Files given for each set, as public benchmarks do."""

    by: Literal["files"]
    train: str
    valid: str
    test: str


SplitSettings = Annotated[
    TimeSplit | LastSplit | RandomSplit | FilesSplit, Field(discriminator="by")
]
