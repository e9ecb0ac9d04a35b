"""The recipe: one YAML that says what the columns mean, which model, and how to train it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from finerank.errors import FinerankError, did_you_mean
from finerank.settings import (
    Entity,
    EntityTableSettings,
    FeatureSettings,
    HistorySettings,
    LogSettings,
    ModelSettings,
    Name,
    NegativeSettings,
    Settings,
    SplitSettings,
    TaskSettings,
    TrainingSettings,
    short_tasks,
)
from finerank.validation import WrongSetting, as_finerank_error

_PATHS = {
    "log": ("path",),
    "users": ("path",),
    "items": ("path",),
    "split": ("train", "valid", "test"),
}


class _EachKeyOnce(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, not the last one's win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                problem = f"{key.value!r} a second time"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


class Recipe(Settings):
    """Everything that turns a log into a trained model.

    Read one with `Recipe.load`; change it with `Recipe.override`.
    """

    name: Name = Field(
        default="finerank", description="shown in reports; the file's name where left out"
    )
    log: LogSettings
    users: EntityTableSettings | None = None
    items: EntityTableSettings | None = None
    features: dict[Name, FeatureSettings] = Field(min_length=1)
    histories: dict[Name, HistorySettings] = Field(default_factory=dict)
    tasks: Annotated[dict[Name, TaskSettings], BeforeValidator(short_tasks)] = Field(
        min_length=1, description="name -> SQL expression, or its label and weight"
    )
    split: SplitSettings
    negatives: NegativeSettings | None = None
    model: ModelSettings = Field(default_factory=ModelSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)

    @model_validator(mode="after")
    def _hangs_together(self) -> Recipe:
        if (self.log.path is None) != (self.split.by == "files"):
            found = "neither" if self.log.path is None else "both"
            raise WrongSetting(expected="either log.path or split.by: files", found=found)
        sampled = self.samples_negatives
        exclude = self.negatives.exclude if self.negatives is not None else None
        for column, part in (
            ("user", "users" if self.users else None),
            ("item", "items" if self.items else None),
            ("time", f"split.by: {self.split.by}" if self.split.by in ("time", "last") else None),
            ("user", "split.by: last" if self.split.by == "last" else None),
            ("user", "histories" if self.event_histories else None),
            ("time", "histories" if self.event_histories else None),
            ("user", "sampled negatives" if sampled else None),
            ("item", "sampled negatives" if sampled else None),
            ("time", "negatives.exclude: before" if sampled and exclude == "before" else None),
        ):
            if part is not None and getattr(self.log, column) is None:
                raise WrongSetting(
                    key=f"log.{column}", expected=f"a column, for {part}", found="none"
                )
        if self.has_event_tasks:
            self._check_event_log()
        for name, history in self.histories.items():
            for feature in history.features:
                self._check_step_feature(f"histories.{name}.features", feature)
            if history.lists is not None:
                self._check_lists(f"histories.{name}", history, history.lists)
        return self

    def _check_event_log(self) -> None:
        """What tasks with ``event`` need of the log and of the split."""
        for column in ("user", "item", "time", "event"):
            if getattr(self.log, column) is None:
                raise WrongSetting(
                    key=f"log.{column}", expected="a column, for tasks with event", found="none"
                )
        if self.log.examples is None:
            raise WrongSetting(
                key="log.examples",
                expected="a condition for the rows that are examples, for tasks with event",
                found="none",
                fix=f"Such as {self.log.event} = 'view'.",
            )
        if self.split.by not in ("time", "last"):
            raise WrongSetting(
                key="split.by",
                expected="time or last, for tasks with event",
                found=self.split.by,
                fix="Else the label of a training row would tell of test rows.",
            )

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

    def _check_lists(self, key: str, history: HistorySettings, lists: Mapping[str, str]) -> None:
        """What a history of ready-made lists needs of its features."""
        for feature in lists:
            if (kind := self.features[feature].type) not in ("id", "number"):
                raise WrongSetting(
                    key=f"{key}.lists.{feature}",
                    expected="a feature of type id or number, one value a step",
                    found=f"type: {kind}",
                )
        others = [feature for feature in history.features if feature not in lists]
        if others and self.item_list(history) is None:
            raise WrongSetting(
                key=f"{key}.lists",
                expected=f"a list for {others[0]!r}, or one of the feature that is the item's id",
                found=f"lists for {', '.join(lists)}",
            )

    @property
    def event_histories(self) -> dict[str, HistorySettings]:
        """The histories that are windows over the log's events."""
        return {name: each for name, each in self.histories.items() if each.lists is None}

    @property
    def list_histories(self) -> dict[str, HistorySettings]:
        """The histories that the log's rows hold ready-made."""
        return {name: each for name, each in self.histories.items() if each.lists is not None}

    def item_list(self, history: HistorySettings) -> str | None:
        """Of a history's lists, the feature that is the item's id; None where there is none."""
        ids = {self.log.item, None if self.items is None else self.items.key} - {None}
        found = (
            name
            for name in history.lists or ()
            if self.features[name].side == "item" and self.column_of(name) in ids
        )
        return next(found, None)

    def only_listed(self, feature: str) -> bool:
        """Whether a feature has no column of its own: it stands in steps, all of them listed."""
        using = [each for each in self.histories.values() if feature in each.features]
        return (
            self.features[feature].side == "history"
            and bool(using)
            and all(feature in (each.lists or ()) for each in using)
        )

    @property
    def has_event_tasks(self) -> bool:
        """Whether the label of a task is what followed in the log."""
        return any(task.event is not None for task in self.tasks.values())

    @property
    def samples_negatives(self) -> bool:
        """Whether negatives are sampled beside the positives."""
        return self.negatives is not None and self.negatives.sampled

    @property
    def entities(self) -> dict[Entity, EntityTableSettings]:
        """The tables of users and items that the recipe has."""
        tables: dict[Entity, EntityTableSettings | None] = {
            "users": self.users,
            "items": self.items,
        }
        return {name: table for name, table in tables.items() if table is not None}

    def id_columns(self, home: str) -> set[str]:
        """The columns of the log, of ``users`` or of ``items`` that hold ids."""
        columns = {self.column_of(name) for name, f in self.features.items() if f.type == "id"}
        table = {"users": self.users, "items": self.items}.get(home)
        own = {self.log.user, self.log.item} if table is None else {table.key}
        return columns | {column for column in own if column is not None}

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
            content = yaml.load(path.read_text(encoding="utf-8"), _EachKeyOnce)  # noqa: S506
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            found = " ".join(str(error).split())
            raise FinerankError(str(path), expected="valid YAML", found=found) from error
        if isinstance(content, dict):
            content.setdefault("name", re.sub(r"[^\w-]", "-", path.stem))
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
            raise as_finerank_error(error, cls, content, where) from error

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
            try:
                target[last] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                where = f"--set {assignment}"
                raise FinerankError(where, expected="a YAML value", found=repr(value)) from error
        return self.parse(content, where="--set" if assignments else "recipe")

    def to_yaml(self) -> str:
        """The recipe with every default written out."""
        return yaml.safe_dump(
            self.model_dump(exclude_none=True), sort_keys=False, allow_unicode=True
        )
