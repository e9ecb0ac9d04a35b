"""The named models, and how a recipe's options reach them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from finerank.errors import FinerankError, did_you_mean
from finerank.models.dcn import DCN
from finerank.models.deepfm import DeepFM
from finerank.models.din import DIN
from finerank.models.dnn import DNN
from finerank.models.fm import FM
from finerank.models.mmoe import MMoE
from finerank.models.one_gate import OneGate
from finerank.models.ple import PLE
from finerank.models.shared_bottom import SharedBottom
from finerank.models.wide_deep import WideDeep
from finerank.validation import as_finerank_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from finerank.data.schema import Schema
    from finerank.models.ranking_model import RankingModel
    from finerank.settings import ModelSettings

MODELS: dict[str, type[RankingModel]] = {
    "dnn": DNN,
    "din": DIN,
    "dcn": DCN,
    "fm": FM,
    "wide_deep": WideDeep,
    "deepfm": DeepFM,
    "shared_bottom": SharedBottom,
    "one_gate": OneGate,
    "mmoe": MMoE,
    "ple": PLE,
}


def options_of(name: str) -> type[BaseModel]:
    """The options of a named model: the keyword arguments of its constructor.

    Raises:
        FinerankError: no model has that name.
    """
    if name not in MODELS:
        hint = did_you_mean(name, MODELS)
        raise FinerankError("model.name", expected="a named model", found=repr(name), fix=hint)
    signature = inspect.signature(MODELS[name])
    fields: dict[str, Any] = {
        each.name: (each.annotation, each.default)
        for each in signature.parameters.values()
        if each.kind is inspect.Parameter.KEYWORD_ONLY
    }
    config = ConfigDict(extra="forbid")
    return create_model(f"{name}_options", __config__=config, **fields)


def check_options(settings: ModelSettings) -> dict[str, Any]:
    """The options of a recipe's model, checked, with every default.

    Raises:
        FinerankError: no such model, or an option it doesn't have or of another type.
    """
    options = options_of(settings.name)
    try:
        return options.model_validate(settings.options).model_dump()
    except ValidationError as error:
        raise as_finerank_error(error, options, settings.options, "model") from error


def build(schema: Schema, settings: ModelSettings) -> RankingModel:
    """The model of a recipe, with fresh weights.

    Raises:
        FinerankError: as `check_options`.
    """
    options = options_of(settings.name).model_validate(check_options(settings))
    constructor: Callable[..., RankingModel] = MODELS[settings.name]
    arguments = {name: getattr(options, name) for name in type(options).model_fields}
    try:
        return constructor(schema, **arguments)
    except ValueError as error:
        expected, _, found = str(error).removeprefix("expected ").partition(", found ")
        raise FinerankError("model", expected=expected, found=found) from error
