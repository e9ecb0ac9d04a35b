"""Settings of a model and of its training."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from finerank.settings.base import Settings
from finerank.validation import WrongSetting


def _as_device(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise WrongSetting(expected="auto, cpu, cuda or cuda:N", found=repr(device))
    return device


Device = Annotated[str, AfterValidator(_as_device)]


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
    embedding_optimizer: Literal["adam", "lazy_adam", "rowwise_adagrad"] = Field(
        default="adam",
        description="of the embedding tables; a step costs the same however large they are, but "
        "beside embedding_weight_decay. adam: as of all weights; the steps of rows that no batch "
        "uses are put off until one does; lazy_adam: those rows rest instead; rowwise_adagrad: "
        "likewise, with one number a row instead of two each",
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
    compile: bool = Field(
        default=False,
        description="whether training on a GPU runs code that torch compiles from the model in the "
        "first step; where it can't, it says so and trains without",
    )

    @model_validator(mode="after")
    def _decays_every_row(self) -> TrainingSettings:
        if self.embedding_weight_decay > 0 and self.embedding_optimizer != "adam":
            raise WrongSetting(
                expected="embedding_optimizer: adam beside embedding_weight_decay",
                found=self.embedding_optimizer,
            )
        return self
