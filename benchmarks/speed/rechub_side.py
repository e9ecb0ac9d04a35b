"""torch-rechub 0.9.0, as its examples call it: DataGenerator, a model, CTRTrainer or MTLTrainer.

Its MLP has a batch normalisation after every layer, and DIN's MLP is always with its own Dice:
neither can be switched off. DIN pairs each column with its history apart: two attentions of width
64, where others have one of 128. It has no mask; with ``padding_idx`` the padding adds nothing.
The wheel has no DNN, which is composed of its layers. Adam's default weight decay of 1e-5 is off,
as no other library has it.
"""

from __future__ import annotations

import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from cases import (
    ATTENTION_UNITS,
    CROSS_LAYERS,
    EVALUATION_BATCH,
    EXPERT_UNITS,
    EXPERTS,
    TOWER_UNITS,
)
from joined import joined
from measure import Ready, first
from padded import columns_of
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import LabelEncoder
from synthetic import load, make
from torch import nn
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.basic.layers import MLP, EmbeddingLayer
from torch_rechub.basic.metric import gauc_score
from torch_rechub.models.multi_task import MMOE
from torch_rechub.models.ranking import DCN, DIN
from torch_rechub.trainers import CTRTrainer, MTLTrainer
from torch_rechub.utils.data import DataGenerator, df_to_dict, pad_sequences

if TYPE_CHECKING:
    from pathlib import Path

    from cases import Case
    from measure import Clock


class Side:
    """torch-rechub's side of a case."""

    def __init__(self, case: Case, work: Path, device: str) -> None:
        self.case, self.device = case, device
        self.raw = make(case, work)
        self.arrays = load(self.raw)

    def train(self, measure: str, clock: Clock) -> None:
        """Run the library's own training until the clock ends it."""
        trainer, loader = self._trainer(), self._loader(self.case.batch_size, shuffle=True)
        trainer.optimizer.register_step_post_hook(lambda *_: clock.tick(self.case.batch_size))
        if measure == "step":
            loader = Ready.loader([self._moved(batch) for batch in first(loader)])
        trainer.train_one_epoch(loader)

    def evaluate(self, measure: str) -> tuple[int, float]:
        """Rows, and seconds of predicting and judging them, or of judging alone.

        Its GAUC fails on a user with one class, as sklearn's AUC does: such users are left out
        before, in no measured time.
        """
        columns, labels = columns_of(self.case, self.arrays)
        users = columns["c0"]
        positives = np.bincount(users, labels)[users]
        kept = (positives > 0) & (positives < np.bincount(users)[users])
        if measure == "metrics":
            scores = np.random.default_rng(0).random(len(labels))
            started = time.perf_counter()
            _judge(labels, scores, users, kept)
            return len(labels), time.perf_counter() - started
        trainer, loader = self._trainer(), self._loader(EVALUATION_BATCH, shuffle=False)
        started = time.perf_counter()
        scores = np.asarray(trainer.predict(trainer.model, loader))
        _judge(labels, scores, users, kept)
        return len(labels), time.perf_counter() - started

    def prepare(self) -> tuple[int, float]:
        """Examples, and seconds from the raw files to the dictionary of arrays.

        Ids with sklearn's LabelEncoder and padding with its own function, as its examples do; the
        join is pandas', since its ``generate_seq_feature`` makes no examples of impressions.
        """
        started = time.perf_counter()
        shown = joined(self.raw, self.case.max_length)
        histories = {name: shown.pop(name) for name in ("items", "categories")}
        encoded = {}
        for column in ("user", "item", "category"):
            encoder = LabelEncoder()
            history = {"item": "items", "category": "categories"}.get(column)
            values = shown[column].to_numpy()
            if history is None:
                shown[column] = encoder.fit_transform(values) + 1
                continue
            steps = np.concatenate(histories[history].to_list())
            ids = encoder.fit_transform(np.concatenate([values, steps])) + 1
            shown[column] = ids[: len(values)]
            ends = histories[history].map(len).cumsum().to_numpy()[:-1]
            encoded[f"hist_{column}"] = pad_sequences(
                np.split(ids[len(values) :], ends),
                maxlen=self.case.max_length,
                padding="post",
                truncating="pre",
            )
        labels = shown.pop("click").to_numpy()
        DataGenerator({**df_to_dict(shown), **encoded}, labels)
        return len(labels), time.perf_counter() - started

    def _loader(self, batch_size: int, *, shuffle: bool) -> Any:  # noqa: ANN401
        columns, labels = columns_of(self.case, self.arrays)
        columns.pop("length", None)
        few = {name: column[:8] for name, column in columns.items()}
        train, valid, _ = DataGenerator(columns, labels).generate_dataloader(
            x_val=columns if not shuffle else few,
            y_val=labels if not shuffle else labels[:8],
            x_test=few,
            y_test=labels[:8],
            batch_size=batch_size,
        )
        return train if shuffle else valid

    def _moved(self, batch: Any) -> Any:  # noqa: ANN401
        x, y = batch
        return {name: column.to(self.device) for name, column in x.items()}, y.to(self.device)

    def _trainer(self) -> Any:  # noqa: ANN401
        common = {
            "optimizer_params": {"lr": 1e-3},
            "n_epoch": 1,
            "device": self.device,
            "model_path": tempfile.gettempdir(),
        }
        torch.manual_seed(0)
        if self.case.kind == "mmoe":
            types = ["classification"] * len(self.case.tasks)
            return MTLTrainer(self._mmoe(types), types, **common)
        return CTRTrainer(self._model(), **common)

    def _sparse(self, name: str, **more: object) -> SparseFeature:
        return SparseFeature(
            name, self.arrays.sizes[name], embed_dim=self.case.embedding_dim, **more
        )

    def _mmoe(self, types: list[str]) -> nn.Module:
        return MMOE(
            [self._sparse(name) for name in self.arrays.sizes],
            types,
            EXPERTS,
            expert_params={"dims": list(EXPERT_UNITS)},
            tower_params_list=[{"dims": list(TOWER_UNITS)} for _ in types],
        )

    def _model(self) -> nn.Module:
        case = self.case
        units = {"dims": list(case.hidden_units)}
        if case.history is not None:
            return DIN(
                features=[self._sparse("user")],
                history_features=[
                    SequenceFeature(
                        f"hist_{name}",
                        self.arrays.sizes[name],
                        embed_dim=case.embedding_dim,
                        pooling="concat",
                        shared_with=name,
                        padding_idx=0,
                    )
                    for name in ("item", "category")
                ],
                target_features=[
                    self._sparse(name, padding_idx=0) for name in ("item", "category")
                ],
                mlp_params=units,
                attention_mlp_params={"dims": list(ATTENTION_UNITS)},
            )
        features = [
            *(self._sparse(name) for name in self.arrays.sizes),
            *(DenseFeature(f"n{index}") for index in range(case.numbers)),
        ]
        if case.kind == "dcn":
            return DCN(features, CROSS_LAYERS, units)
        return Deep(features, units)


class Deep(nn.Module):
    """A DNN of torch-rechub's layers."""

    def __init__(self, features: list[Any], units: dict[str, Any]) -> None:
        super().__init__()
        self.features = features
        self.embedding = EmbeddingLayer(features)
        self.mlp = MLP(sum(feature.embed_dim for feature in features), **units)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        """The probabilities."""
        flat = self.embedding(x, self.features, squeeze_dim=True)
        return torch.sigmoid(self.mlp(flat).squeeze(1))


def _judge(labels: np.ndarray, scores: np.ndarray, users: np.ndarray, kept: np.ndarray) -> None:
    roc_auc_score(labels, scores)
    log_loss(labels, scores)
    gauc_score(labels[kept], scores[kept], users[kept])
