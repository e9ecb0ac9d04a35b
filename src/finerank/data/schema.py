"""What the prepared data holds and what a model is built from: features, histories, tasks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from finerank.settings import FeatureType, Side

Home = Literal["log", "users", "items"]
UNKNOWN = 0  # the id of all that was never seen


@dataclass(frozen=True)
class Feature:
    """One input of the model, as prepared.

    Attributes:
        home: the table that holds its raw column.
        size: for ids, the rows of the vocabulary with the unknown row; for a vector, its width;
            for a number, 1.
        space: for ids, the vocabulary and embedding table that it shares.
    """

    name: str
    side: Side
    type: FeatureType
    home: Home
    column: str
    size: int
    space: str | None = None
    separator: str | None = None


@dataclass(frozen=True)
class History:
    """A user's past events, or steps that the log's rows hold ready-made.

    Attributes:
        features: of each step.
        max_length: how many steps are kept.
        max_age: how long before the request a step may be, in the unit of prepared times.
        listed: the features that ready-made lists hold; none of a history of events.
    """

    name: str
    features: tuple[str, ...]
    max_length: int
    max_age: int | float | None = None
    listed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """All a model needs to know of its data.

    Attributes:
        time: whether the log's times are numbers, or dates and times; None where it has none.
    """

    features: tuple[Feature, ...]
    histories: tuple[History, ...]
    tasks: tuple[str, ...]
    time: str | None = None

    def feature(self, name: str) -> Feature:
        """The feature of that name."""
        return next(feature for feature in self.features if feature.name == name)

    def event_features(self, history: History) -> list[Feature]:
        """Those of a history's steps that the log holds, of each event its own."""
        return [f for f in map(self.feature, history.features) if f.home == "log"]

    @property
    def request_features(self) -> tuple[Feature, ...]:
        """Those of the user and of the moment."""
        return tuple(f for f in self.features if f.side in ("user", "context"))

    @property
    def candidate_features(self) -> tuple[Feature, ...]:
        """Those of the item."""
        return tuple(f for f in self.features if f.side == "item")

    @property
    def event_histories(self) -> tuple[History, ...]:
        """Those that are windows over the events of users."""
        return tuple(each for each in self.histories if not each.listed)

    @property
    def list_histories(self) -> tuple[History, ...]:
        """Those that rows hold ready-made."""
        return tuple(each for each in self.histories if each.listed)

    def to_json(self) -> dict[str, Any]:
        """As plain mappings and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Schema:
        """From what `to_json` gave."""
        return cls(
            features=tuple(Feature(**each) for each in content["features"]),
            histories=tuple(
                History(
                    **{**each, **{k: tuple(each[k]) for k in ("features", "listed") if k in each}}
                )
                for each in content["histories"]
            ),
            tasks=tuple(content["tasks"]),
            time=content["time"],
        )
