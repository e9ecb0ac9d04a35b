"""DeepCTR-Torch 0.3.0, as its examples call it: feature columns, ``compile``, ``fit`` on arrays.

Its L2 on every row of every table in each step (1e-6 or 1e-5 by default) is off, as no other
library has one. The wheel has no DNN: that is its DCN without cross layers, which is one. It reads
all inputs as float32. It has no GAUC: that is sklearn's AUC of each user, with pandas.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import deepctr_torch.models.basemodel
import numpy as np
import pandas as pd
import torch
from cases import (
    ATTENTION_UNITS,
    CROSS_LAYERS,
    EVALUATION_BATCH,
    EXPERT_UNITS,
    EXPERTS,
    TOWER_UNITS,
)
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat, get_feature_names
from deepctr_torch.models import DCN, DIN, MMOE
from joined import joined, padded
from measure import Ready, first
from padded import columns_of
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import LabelEncoder
from synthetic import load, make

if TYPE_CHECKING:
    from pathlib import Path

    from cases import Case
    from measure import Clock


class Side:
    """DeepCTR-Torch's side of a case."""

    def __init__(self, case: Case, work: Path, device: str) -> None:
        self.case, self.device = case, "cuda:0" if device == "cuda" else device
        self.raw = make(case, work)
        self.arrays = load(self.raw)

    def train(self, measure: str, clock: Clock) -> None:
        """Run the library's own training until the clock ends it."""
        model = self._model()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        optimizer.register_step_post_hook(lambda *_: clock.tick(self.case.batch_size))
        loss = ["binary_crossentropy"] * len(self.case.tasks)
        model.compile(optimizer, loss if len(loss) > 1 else loss[0])
        columns, labels = columns_of(self.case, self.arrays)
        if measure == "step":
            _loader_of_ready_batches(self.device)
        model.fit(columns, labels, batch_size=self.case.batch_size, epochs=1, verbose=0)

    def evaluate(self, measure: str) -> tuple[int, float]:
        """Rows, and seconds of predicting and judging them, or of judging alone."""
        columns, labels = columns_of(self.case, self.arrays)
        if measure == "metrics":
            scores = np.random.default_rng(0).random(len(labels))
            started = time.perf_counter()
            _judge(labels, scores, columns["c0"])
            return len(labels), time.perf_counter() - started
        model = self._model()
        started = time.perf_counter()
        scores = model.predict(columns, batch_size=EVALUATION_BATCH)[:, 0]
        _judge(labels, scores, columns["c0"].reshape(-1))
        return len(labels), time.perf_counter() - started

    def prepare(self) -> tuple[int, float]:
        """Examples, and seconds from the raw files to the dictionary of arrays.

        Ids with sklearn's LabelEncoder, as its examples do; the join is pandas'.
        """
        started = time.perf_counter()
        shown = joined(self.raw, self.case.max_length)
        x = {"user": LabelEncoder().fit_transform(shown["user"]) + 1}
        for column, history in (("item", "items"), ("category", "categories")):
            steps = padded(shown[history], self.case.max_length)
            real = steps > 0
            values = np.concatenate([shown[column].to_numpy(), steps[real]])
            ids = LabelEncoder().fit_transform(values) + 1
            x[column] = ids[: len(shown)]
            steps[real] = ids[len(shown) :]
            x[f"hist_{column}"] = steps
        x["length"] = shown["items"].map(len).to_numpy()
        return len(shown), time.perf_counter() - started

    def _sparse(self, name: str, shared: str | None = None) -> SparseFeat:
        table = shared or name
        return SparseFeat(
            name, self.arrays.sizes[table], self.case.embedding_dim, embedding_name=table
        )

    def _model(self) -> Any:  # noqa: ANN401
        case = self.case
        common = {"l2_reg_embedding": 0, "device": self.device, "task": "binary"}
        if case.history is not None:
            columns = [
                *(self._sparse(name) for name in ("user", "item", "category")),
                *(
                    VarLenSparseFeat(
                        self._sparse(f"hist_{name}", shared=name),
                        maxlen=case.max_length,
                        length_name="length",
                    )
                    for name in ("item", "category")
                ),
            ]
            return DIN(
                columns,
                ["item", "category"],
                dnn_hidden_units=case.hidden_units,
                att_hidden_size=ATTENTION_UNITS,
                **common,
            )
        columns = [
            *(self._sparse(name) for name in self.arrays.sizes),
            *(DenseFeat(f"n{index}") for index in range(case.numbers)),
        ]
        assert get_feature_names(columns)
        if case.kind == "mmoe":
            del common["task"]
            return MMOE(
                columns,
                num_experts=EXPERTS,
                expert_dnn_hidden_units=EXPERT_UNITS,
                gate_dnn_hidden_units=(),
                tower_dnn_hidden_units=TOWER_UNITS,
                task_types=["binary"] * len(case.tasks),
                task_names=case.tasks,
                **common,
            )
        return DCN(
            [],
            columns,
            cross_num=CROSS_LAYERS if case.kind == "dcn" else 0,
            dnn_hidden_units=case.hidden_units,
            l2_reg_cross=0,
            l2_reg_linear=0,
            **common,
        )


def _loader_of_ready_batches(device: str) -> None:
    """Let ``fit`` iterate batches that are made already: it builds its loader by this name."""
    own = deepctr_torch.models.basemodel.DataLoader

    def ready(**arguments: Any) -> Any:  # noqa: ANN401
        batches = first(own(**arguments))
        return Ready.loader([[part.to(device) for part in batch] for batch in batches])

    deepctr_torch.models.basemodel.DataLoader = ready


def _judge(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> None:
    roc_auc_score(labels, scores)
    log_loss(labels, scores)
    table = pd.DataFrame({"label": labels, "score": scores, "user": users})
    weighted, rows = 0.0, 0
    for _, group in table.groupby("user"):
        if group["label"].nunique() == 2:
            weighted += len(group) * roc_auc_score(group["label"], group["score"])
            rows += len(group)
    assert rows
