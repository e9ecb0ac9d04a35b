"""The recipe: one YAML that says what the columns mean, which model, and how to train it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from finerank.errors import FinerankError, did_you_mean
from finerank.validation import WrongSetting, as_finerank_error

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
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """A part of the recipe; an unknown key in it is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TableSettings(Settings):
    """A file, a folder or a glob pattern of files; relative paths start at the recipe."""

    path: str = Field(description="Parquet, CSV or Arrow file, folder of them, or glob pattern")
    derive: dict[Name, str] = Field(
        default_factory=dict, description="further columns: name -> SQL expression over the columns"
    )


class LogSettings(Settings):
    """The event log: who, what, when."""

    path: str | None = Field(
        default=None, description="as in users and items; left out where the split names files"
    )
    derive: dict[Name, str] = Field(
        default_factory=dict, description="further columns: name -> SQL expression over the columns"
    )
    user: str | None = Field(default=None, description="column that holds the user's id")
    item: str | None = Field(default=None, description="column that holds the item's id")
    time: str | None = Field(
        default=None, description="column that orders a user's events: a number, a date or a time"
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

    @model_validator(mode="after")
    def _fits_its_type(self) -> FeatureSettings:
        if self.separator is not None and self.type != "ids":
            raise WrongSetting(expected="type: ids beside separator", found=f"type: {self.type}")
        if self.type not in ("id", "ids"):
            for key in ("space", "min_count"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise WrongSetting(
                        expected=f"type: id or ids beside {key}", found=f"type: {self.type}"
                    )
        return self


class HistorySettings(Settings):
    """A user's past events: those strictly before the request, the most recent kept."""

    features: list[str] = Field(min_length=1, description="features of each step")
    where: str | None = Field(default=None, description="SQL condition: which events enter")
    max_length: int = Field(default=50, ge=1, description="steps kept, the most recent")


class TaskSettings(Settings):
    """One objective."""

    label: str = Field(description="SQL expression over the log's columns: 1 or true, 0 or false")
    weight: float = Field(default=1.0, gt=0, description="of its loss in the sum")


class TimeSplit(Settings):
    """The newest events are the test set, those before them the validation set."""

    by: Literal["time"]
    valid: Fraction | None = Field(default=None, description="share of the rows")
    test: Fraction | None = Field(default=None, description="share of the rows")
    valid_from: str | float | None = Field(default=None, description="first time of validation")
    test_from: str | float | None = Field(default=None, description="first time of test")

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
        return self


class LastSplit(Settings):
    """The last rows of each user are the test set, those before them the validation set."""

    by: Literal["last"]
    valid: int = Field(default=1, ge=0, description="rows a user")
    test: int = Field(default=1, ge=0, description="rows a user")


class RandomSplit(Settings):
    """Rows drawn at random."""

    by: Literal["random"]
    valid: Fraction = Field(default=0.1, description="share of the rows")
    test: Fraction = Field(default=0.1, description="share of the rows")
    seed: int = Field(default=0, ge=0)


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
    weight_decay: float = Field(default=0.0, ge=0, description="L2 on the dense weights")
    embedding_l2: float = Field(default=0.0, ge=0, description="L2 on the embeddings of the batch")
    metric: Literal["auc", "gauc", "log_loss_nats"] = Field(
        default="auc", description="what early stopping watches on the validation set"
    )
    patience: int = Field(default=2, ge=1, description="epochs without gain before it stops")
    seed: int = Field(default=0, ge=0)


def _short_tasks(tasks: object) -> object:
    if isinstance(tasks, Mapping):
        return {k: {"label": v} if isinstance(v, str) else v for k, v in tasks.items()}
    return tasks


_PATHS = {
    "log": ("path",),
    "users": ("path",),
    "items": ("path",),
    "split": ("train", "valid", "test"),
}


class Recipe(Settings):
    """Everything that turns a log into a trained model.

    Read one with `Recipe.load`; change it with `Recipe.override`.
    """

    name: Name = Field(default="finerank", description="shown in reports")
    log: LogSettings
    users: EntityTableSettings | None = None
    items: EntityTableSettings | None = None
    features: dict[Name, FeatureSettings] = Field(min_length=1)
    histories: dict[Name, HistorySettings] = Field(default_factory=dict)
    tasks: Annotated[dict[Name, TaskSettings], BeforeValidator(_short_tasks)] = Field(
        min_length=1, description="name -> SQL expression, or its label and weight"
    )
    split: SplitSettings
    model: ModelSettings = Field(default_factory=ModelSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)

    @model_validator(mode="after")
    def _hangs_together(self) -> Recipe:
        if (self.log.path is None) != (self.split.by == "files"):
            found = "neither" if self.log.path is None else "both"
            raise WrongSetting(expected="either log.path or split.by: files", found=found)
        for column, part in (
            ("user", "users" if self.users else None),
            ("item", "items" if self.items else None),
            ("time", f"split.by: {self.split.by}" if self.split.by in ("time", "last") else None),
            ("user", "split.by: last" if self.split.by == "last" else None),
            ("user", "histories" if self.histories else None),
            ("time", "histories" if self.histories else None),
        ):
            if part is not None and getattr(self.log, column) is None:
                raise WrongSetting(
                    key=f"log.{column}", expected=f"a column, for {part}", found="none"
                )
        for name, history in self.histories.items():
            for feature in history.features:
                self._check_step_feature(f"histories.{name}.features", feature)
        return self

    def _check_step_feature(self, key: str, feature: str) -> None:
        if feature not in self.features:
            hint = did_you_mean(feature, self.features)
            raise WrongSetting(key=key, expected="a feature", found=repr(feature), fix=hint)
        if (side := self.features[feature].side) not in ("item", "history"):
            raise WrongSetting(
                key=key,
                expected="features of side item or history",
                found=f"{feature!r} of side {side}",
            )

    @property
    def entities(self) -> dict[Entity, EntityTableSettings]:
        """The tables of users and items that the recipe has."""
        tables: dict[Entity, EntityTableSettings | None] = {
            "users": self.users,
            "items": self.items,
        }
        return {name: table for name, table in tables.items() if table is not None}

    def space_of(self, feature: str) -> str:
        """The id space of a feature: the one it names, or its own name."""
        return self.features[feature].space or feature

    def column_of(self, feature: str) -> str:
        """The raw column of a feature: the one it names, or its own name."""
        return self.features[feature].column or feature

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read and check a recipe.

        Raises:
            FinerankError: the file is missing, is not YAML, or a key in it is unknown or wrong.
        """
        path = Path(path)
        if not path.is_file():
            raise FinerankError(str(path), expected="a recipe (YAML file)", found="no such file")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            found = " ".join(str(error).split())
            raise FinerankError(str(path), expected="valid YAML", found=found) from error
        return cls.parse(content, where=str(path)).located(path.parent)

    @classmethod
    def parse(cls, content: object, *, where: str = "recipe") -> Recipe:
        """Check a recipe that is already read into mappings and lists."""
        if not isinstance(content, Mapping):
            found = "an empty file" if content is None else type(content).__name__
            raise FinerankError(where, expected="a mapping with log, features, tasks", found=found)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise as_finerank_error(error, cls, where) from error

    def located(self, folder: str | Path) -> Recipe:
        """A copy whose relative paths start at a folder."""
        base = Path(folder).resolve()
        content = self.model_dump(exclude_unset=True)
        for part, keys in _PATHS.items():
            for key in keys:
                if isinstance((content.get(part) or {}).get(key), str):
                    content[part][key] = str(base / content[part][key])
        return self.parse(content)

    def override(self, assignments: Sequence[str]) -> Recipe:
        """A copy with settings replaced, each written ``key.key=value`` with a YAML value.

        Raises:
            FinerankError: an assignment has no ``=``, or the result is not a valid recipe.
        """
        content = self.model_dump(exclude_unset=True)
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            if not equals:
                raise FinerankError(f"--set {assignment}", expected="key.key=value", found="no '='")
            *parents, last = key.split(".")
            target = content
            for parent in parents:
                target = target.setdefault(parent, {})
                if not isinstance(target, dict):
                    raise FinerankError(
                        f"--set {assignment}",
                        expected="a key of the recipe",
                        found=f"{parent!r}, which is a value and has no keys",
                    )
            target[last] = yaml.safe_load(value)
        return self.parse(content, where="--set" if assignments else "recipe")

    def to_yaml(self) -> str:
        """The recipe with every default written out."""
        return yaml.safe_dump(
            self.model_dump(exclude_none=True), sort_keys=False, allow_unicode=True
        )
