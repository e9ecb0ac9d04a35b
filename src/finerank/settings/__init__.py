"""The parts of a recipe as typed settings; an unknown key in any of them is an error."""

from finerank.settings.base import SPLITS, Entity, FeatureType, Name, Settings, Side, SplitName
from finerank.settings.features import FeatureSettings, HistorySettings
from finerank.settings.splits import FilesSplit, LastSplit, RandomSplit, SplitSettings, TimeSplit
from finerank.settings.tables import EntityTableSettings, FileSettings, LogSettings, TableSettings
from finerank.settings.tasks import NegativeSettings, TaskSettings, short_tasks
from finerank.settings.training import ModelSettings, TrainingSettings

__all__ = [
    "SPLITS",
    "Entity",
    "EntityTableSettings",
    "FeatureSettings",
    "FeatureType",
    "FileSettings",
    "FilesSplit",
    "HistorySettings",
    "LastSplit",
    "LogSettings",
    "ModelSettings",
    "Name",
    "NegativeSettings",
    "RandomSplit",
    "Settings",
    "Side",
    "SplitName",
    "SplitSettings",
    "TableSettings",
    "TaskSettings",
    "TimeSplit",
    "TrainingSettings",
    "short_tasks",
]
