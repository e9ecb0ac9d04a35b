"""The parts of a recipe as typed settings; an unknown key in any of them is an error."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
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


def _as_device(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise WrongSetting(expected="auto, cpu, cuda or cuda:N", found=repr(device))
    return device


Device = Annotated[str, AfterValidator(_as_device)]


def _leave_some(valid: float, test: float) -> None:
    if valid + test >= 1:
        raise WrongSetting(expected="shares that leave rows to train on", found=f"{valid}, {test}")


class Settings(BaseModel):
    """A part of the recipe; an unknown key in it is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileSettings(Settings):
    """Files of a table, all of one kind; and what is derived from its columns."""

    format: Literal["parquet", "csv", "json", "arrow"] | None = Field(
        default=None, description="of files whose ending doesn't say it"
    )
    columns: list[Name] | None = Field(
        default=None, min_length=1, description="of text files without a header row: the names"
    )
    separator: str | None = Field(
        default=None,
        min_length=1,
        description="of text files: what stands between the columns; guessed where left out",
    )
    encoding: Literal["utf-8", "utf-16", "latin-1"] | None = Field(
        default=None, description="of text files: utf-8 where left out"
    )
    derive: dict[Name, str] = Field(
        default_factory=dict, description="further columns: name -> SQL expression over the columns"
    )


class TableSettings(FileSettings):
    """A file, a folder or a glob pattern of files; relative paths start at the recipe."""

    path: str = Field(
        description="Parquet, Arrow, CSV or JSON lines file, folder of them, or glob pattern"
    )


class LogSettings(FileSettings):
    """The event log: who, what, when."""

    path: str | None = Field(
        default=None, description="as in users and items; left out where the split names files"
    )
    user: str | None = Field(default=None, description="column that holds the user's id")
    item: str | None = Field(default=None, description="column that holds the item's id")
    time: str | None = Field(
        default=None, description="column that orders a user's events: a number, a date or a time"
    )
    event: str | None = Field(
        default=None, description="column with the type of each event, for tasks with event"
    )
    examples: str | None = Field(
        default=None,
        description="SQL condition: which rows are examples; the others may enter histories and "
        "make labels. All rows where left out",
    )


class EntityTableSettings(TableSettings):
    """A table with one row a user, or one row an item."""

    key: str = Field(description="column that holds the id; unique")
    title: str | None = Field(default=None, description="column shown to people beside the id")


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


class ModelSettings(BaseModel):
    """Which model; the other keys are that model's own options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(default="din", description="a named model, see `finerank models`")

    @property
    def options(self) -> dict[str, Any]:
        """The model's own options as written."""
        return dict(self.model_extra or {})


class TrainingSettings(Settings):
    """How to train."""

    epochs: int = Field(default=10, ge=1, description="at most; early stopping may end sooner")
    batch_size: int = Field(default=1024, ge=1, description="candidates a step")
    learning_rate: float = Field(default=1e-3, gt=0)
    plateau_factor: float = Field(
        default=1.0, gt=0, le=1, description="of the learning rate after an epoch without gain"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="L2 on the dense weights")
    embedding_l2: float = Field(
        default=0.0,
        ge=0,
        description="L2 on the embeddings of a batch's ids, each divided by how often its id "
        "stands in the training set (DIN's mini-batch aware regularisation)",
    )
    embedding_weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="L2 on every row of every embedding table in each step, by adam",
    )
    embedding_optimizer: Literal["lazy_adam", "rowwise_adagrad", "adam"] | None = Field(
        default=None,
        description="of the embedding tables. lazy_adam: Adam, but a row that a batch does not use "
        "rests, so that a step costs the same however large the tables; rowwise_adagrad: likewise, "
        "with one number a row instead of two each; adam: every row in each step. lazy_adam where "
        "left out, adam beside embedding_weight_decay",
    )
    id_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the ids that training takes for unknown, so that the unknown rows "
        "learn where every id is known",
    )
    task_weights: Literal["fixed", "uncertainty"] = Field(
        default="fixed", description="as the tasks say, or times weights that are learned"
    )
    metric: Literal["auc", "gauc", "log_loss_nats"] = Field(
        default="auc", description="what early stopping watches on the validation set"
    )
    patience: int = Field(default=2, ge=1, description="epochs without gain before it stops")
    seed: int = Field(default=0, ge=0)
    device: Device = Field(
        default="auto",
        description="auto: a GPU where there is one, else the CPU; or cpu, cuda, cuda:1",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of matrix products in training: bfloat16 where the device computes in it. "
        "Embeddings, losses, statistics and scores are float32 in any case",
    )

    @model_validator(mode="after")
    def _decays_every_row(self) -> TrainingSettings:
        if self.embedding_weight_decay > 0 and self.table_optimizer != "adam":
            raise WrongSetting(
                expected="embedding_optimizer: adam beside embedding_weight_decay",
                found=self.table_optimizer,
            )
        return self

    @property
    def table_optimizer(self) -> Literal["lazy_adam", "rowwise_adagrad", "adam"]:
        """The optimiser of the embedding tables."""
        if self.embedding_optimizer is not None:
            return self.embedding_optimizer
        return "adam" if self.embedding_weight_decay > 0 else "lazy_adam"


def short_tasks(tasks: object) -> object:
    """Tasks written as their label alone, in the long form."""
    if isinstance(tasks, Mapping):
        return {k: {"label": v} if isinstance(v, str) else v for k, v in tasks.items()}
    return tasks
