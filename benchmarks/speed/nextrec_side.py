"""NextRec 0.6.14, as its tutorials call it: features, ``compile``, ``fit`` on a dictionary.

Its DIN squashes each weight of the attention with a sigmoid where softmax is off, and pairs each
column with its history apart, as torch-rechub's. The wheel has no DNN, which is composed of its
layers. It asks for NumPy below 2 and pandas below 2 with Python 3.11, and runs with the newer ones
that all libraries have here. It imports transformers to count embeddings' widths.
"""

from __future__ import annotations

import os
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
from nextrec.basic.features import DenseFeature, SequenceFeature, SparseFeature
from nextrec.basic.layers import MLP, EmbeddingLayer
from nextrec.basic.metrics import evaluate_metrics
from nextrec.data.preprocessor import DataProcessor
from nextrec.models.multitask.mmoe import MMOE
from nextrec.models.ranking.base import BaseRankingModel
from nextrec.models.ranking.dcn import DCN
from nextrec.models.ranking.din import DIN
from padded import columns_of
from synthetic import load, make

if TYPE_CHECKING:
    from pathlib import Path

    from cases import Case
    from measure import Clock

METRICS = ["auc", "gauc", "logloss"]


class Side:
    """NextRec's side of a case."""

    def __init__(self, case: Case, work: Path, device: str) -> None:
        os.chdir(tempfile.mkdtemp())  # it writes its logs where it is started
        self.case, self.device = case, device
        self.raw = make(case, work)
        self.arrays = load(self.raw)

    def train(self, measure: str, clock: Clock) -> None:
        """Run the library's own training until the clock ends it."""
        model, data = self._model(), self._data()
        loss = ["bce"] * len(self.case.tasks)
        model.compile(
            optimizer="adam",
            optimizer_params={"lr": 1e-3},
            loss=loss if len(loss) > 1 else loss[0],
        )
        model.optimizer_fn.register_step_post_hook(lambda *_: clock.tick(self.case.batch_size))
        if measure == "step":
            loader = model.prepare_data_loader(data, batch_size=self.case.batch_size)
            data = Ready.loader([self._moved(batch) for batch in first(loader)])
        model.fit(
            data,
            epochs=1,
            batch_size=self.case.batch_size,
            metrics=["auc"],
            use_tensorboard=False,
            summary_sections=[],
        )

    def evaluate(self, measure: str) -> tuple[int, float]:
        """Rows, and seconds of predicting and judging them, or of judging alone."""
        columns, labels = columns_of(self.case, self.arrays)
        if measure == "metrics":
            scores = np.random.default_rng(0).random(len(labels))
            started = time.perf_counter()
            evaluate_metrics(
                labels,
                scores,
                METRICS,
                task="binary",
                model_family="ranking",
                target_names=["click"],
                group_ids=columns["c0"],
            )
            return len(labels), time.perf_counter() - started
        model, data = self._model(), self._data()
        model.compile(loss="bce")
        started = time.perf_counter()
        model.evaluate(data, metrics=METRICS, batch_size=EVALUATION_BATCH, group_id="c0")
        return len(labels), time.perf_counter() - started

    def prepare(self) -> tuple[int, float]:
        """Examples, and seconds from the raw files to what its processor gives.

        Ids by hash, its default; the join is pandas'. Its processor hashes a candidate and a step
        of the same item alike, which its label encoding doesn't.
        """
        started = time.perf_counter()
        shown = joined(self.raw, self.case.max_length)
        for column in ("items", "categories"):
            shown[column] = [",".join(map(str, each)) for each in shown[column]]
        shown = shown.astype({"user": str, "item": str, "category": str})
        processor = DataProcessor()
        for name, history in (("user", None), ("item", "items"), ("category", "categories")):
            size = self.arrays.sizes[name]
            processor.add_sparse_feature(name, encode_method="hash", hash_size=size)
            if history is not None:
                processor.add_sequence_feature(
                    history,
                    encode_method="hash",
                    hash_size=size,
                    max_len=self.case.max_length,
                    separator=",",
                )
        processor.add_target("click")
        processor.fit(shown)
        processor.transform(shown, return_dict=True)
        return len(shown), time.perf_counter() - started

    def _data(self) -> dict[str, np.ndarray]:
        columns, labels = columns_of(self.case, self.arrays)
        if labels.ndim == 1:
            labels = labels[:, None]
        tasks = {task: labels[:, index] for index, task in enumerate(self.case.tasks)}
        columns.pop("length", None)
        return {**columns, **tasks}

    def _moved(self, batch: dict[str, Any]) -> dict[str, Any]:
        moved = dict(batch)
        for part in ("features", "labels"):
            moved[part] = {name: each.to(self.device) for name, each in batch[part].items()}
        return moved

    def _sparse(self, name: str) -> SparseFeature:
        return SparseFeature(name, self.arrays.sizes[name], embedding_dim=self.case.embedding_dim)

    def _model(self) -> Any:  # noqa: ANN401
        case = self.case
        torch.manual_seed(0)
        units = {"hidden_dims": list(case.hidden_units), "activation": "relu"}
        common = {"target": list(case.tasks), "device": self.device}
        sparse = [self._sparse(name) for name in self.arrays.sizes]
        dense = [DenseFeature(f"n{index}") for index in range(case.numbers)]
        if case.history is not None:
            return DIN(
                sparse_features=sparse,
                sequence_features=[
                    SequenceFeature(
                        f"hist_{name}",
                        self.arrays.sizes[name],
                        max_len=case.max_length,
                        embedding_name=name,
                        embedding_dim=case.embedding_dim,
                    )
                    for name in ("item", "category")
                ],
                behavior_feature_name=["hist_item", "hist_category"],
                candidate_feature_name=["item", "category"],
                mlp_params=units,
                attention_mlp_params={"hidden_dims": list(ATTENTION_UNITS)},
                attention_use_softmax=False,
                **common,
            )
        if case.kind == "mmoe":
            return MMOE(
                sparse_features=sparse,
                expert_mlp_params={"hidden_dims": list(EXPERT_UNITS)},
                num_experts=EXPERTS,
                tower_mlp_params_list=[{"hidden_dims": list(TOWER_UNITS)} for _ in case.tasks],
                task=["binary"] * len(case.tasks),
                **common,
            )
        if case.kind == "dcn":
            return DCN(
                dense_features=dense,
                sparse_features=sparse,
                cross_num=CROSS_LAYERS,
                mlp_params=units,
                **common,
            )
        return Deep(dense, sparse, units, **common)


class Deep(BaseRankingModel):
    """A DNN of NextRec's layers."""

    @property
    def model_name(self) -> str:
        """What its files are called."""
        return "DNN"

    @property
    def default_task(self) -> str:
        """A click or not."""
        return "binary"

    def __init__(
        self, dense: list[Any], sparse: list[Any], units: dict[str, Any], **common: object
    ) -> None:
        super().__init__(dense_features=dense, sparse_features=sparse, **common)
        self.embedding = EmbeddingLayer(features=self.all_features)
        self.mlp = MLP(input_dim=self.embedding.input_dim, **units)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        """The logits."""
        return self.mlp(self.embedding(x=x, features=self.all_features, squeeze_dim=True))
