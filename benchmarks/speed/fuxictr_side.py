"""FuxiCTR 2.3.10, as its model zoo's ``run_expid.py`` calls it.

DIN is the wheel's own (``model_zoo.LongCTR``), with the loader that belongs to it: histories are
stored once a user, and a batch is padded to its own longest, not to a maximum. The wheel has no
DNN, DCN or MMoE; they are composed of its layers as its model zoo composes them, on its
``RankDataLoader``. Numbers are embedded, as everywhere in FuxiCTR, so its DNN and DCN are wider.

What can't be switched off: every step clips the gradient's norm, over the tables too.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from fuxictr.features import FeatureMap
from fuxictr.metrics import evaluate_metrics
from fuxictr.preprocess import FeatureProcessor, build_dataset
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import CrossNet, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel, MultiTaskModel
from joined import joined
from measure import Ready, first
from model_zoo.LongCTR.DIN.DIN import DIN
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader
from synthetic import Arrays, load, make
from torch import nn

if TYPE_CHECKING:
    from cases import Case
    from measure import Clock

METRICS = ["AUC", "gAUC", "logloss"]


class Side:
    """FuxiCTR's side of a case."""

    def __init__(self, case: Case, work: Path, device: str) -> None:
        logging.disable(logging.INFO)
        self.case, self.gpu = case, 0 if device == "cuda" else -1
        self.raw = make(case, work)
        self.arrays = load(self.raw)
        self.folder = work / "fuxictr" / case.data_name
        self.folder.mkdir(parents=True, exist_ok=True)

    def train(self, measure: str, clock: Clock) -> None:
        """Run the library's own training until the clock ends it."""
        model, loader = self._model(), self._loader()
        model.optimizer.register_step_post_hook(lambda *_: clock.tick(self.case.batch_size))
        if measure == "step":
            loader = Ready.loader(first(loader))
        clock.last = len(loader)  # at an epoch's end it fails where it has no validation set
        model.fit(loader, epochs=1)

    def evaluate(self, measure: str) -> tuple[int, float]:
        """Rows, and seconds of predicting and judging them, or of judging alone."""
        if measure == "metrics":
            labels = np.asarray(self.arrays.columns["click"], np.float64)
            scores = np.random.default_rng(0).random(len(labels))
            users = np.asarray(self.arrays.columns["c0"])
            started = time.perf_counter()
            evaluate_metrics(labels, scores, METRICS, users)
            return len(labels), time.perf_counter() - started
        model, loader = self._model(), self._loader(shuffle=False, batch_size=EVALUATION_BATCH)
        started = time.perf_counter()
        model.evaluate(loader, metrics=METRICS)
        return self.case.rows, time.perf_counter() - started

    def prepare(self) -> tuple[int, float]:
        """Examples, and seconds from the raw files to the encoded Parquet file.

        FuxiCTR reads histories as one text with ``^`` between the ids; the join is pandas'.
        """
        ids = {"dtype": "str", "type": "categorical", "active": True}
        history = {
            "dtype": "str",
            "type": "sequence",
            "active": True,
            "splitter": "^",
            "max_len": self.case.max_length,
        }
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            shown = joined(self.raw, self.case.max_length)
            for column in ("items", "categories"):
                steps = shown.pop(column)
                shown[f"past_{column}"] = ["^".join(map(str, each)) for each in steps]
            shown = shown.astype({"user": str, "item": str, "category": str})
            path = Path(folder) / "shown.parquet"
            shown.to_parquet(path)
            processor = FeatureProcessor(
                feature_cols=[
                    {"name": "user", **ids},
                    {"name": "item", **ids},
                    {"name": "category", **ids},
                    {"name": "past_items", "share_embedding": "item", **history},
                    {"name": "past_categories", "share_embedding": "category", **history},
                ],
                label_col={"name": "click", "dtype": "float"},
                dataset_id="log",
                data_root=folder,
            )
            build_dataset(processor, train_data=str(path), data_format="parquet")
            return len(shown), time.perf_counter() - started

    def _loader(self, *, shuffle: bool = True, batch_size: int | None = None) -> Any:  # noqa: ANN401
        batch_size = batch_size or self.case.batch_size
        if self.case.history is None:
            path = self.folder / "train.npz"
            if not path.exists():
                np.savez(path, **self.arrays.columns)
            # npz, its RankDataLoader's default: its Parquet loader, on Ray, was slower by far
            loader, _ = RankDataLoader(
                self._features(),
                stage="train",
                train_data=str(path),
                batch_size=batch_size,
                shuffle=shuffle,
            )
            return loader
        _write_log(self.arrays, self.folder)
        return LongCTRDataLoader(
            self._features(),
            str(self.folder / "train.parquet"),
            str(self.folder / "users.parquet"),
            str(self.folder / "items.parquet"),
            batch_size=batch_size,
            shuffle=shuffle,
            max_len=self.case.max_length,
        )

    def _features(self) -> FeatureMap:
        case, sizes = self.case, self.arrays.sizes
        found = FeatureMap("speed", str(self.folder))
        for name, size in sizes.items():
            found.features[name] = {"type": "categorical", "source": "", "vocab_size": size}
        for index in range(case.numbers):
            found.features[f"n{index}"] = {"type": "numeric", "source": ""}
        if case.history is not None:
            for name in ("item", "category"):
                found.features[name] |= {"source": "item", "padding_idx": 0}
            for name in ("user_index", "item_index", "seq_len"):
                found.features[name] = {"type": "meta"}
        found.labels = list(case.tasks)
        if case.user_column:
            found.group_id = "c0"
        found.default_emb_dim = case.embedding_dim
        found.num_fields = found.get_num_fields()
        found.set_column_index()
        return found

    def _model(self) -> BaseModel:
        case = self.case
        common: dict[str, Any] = {
            "gpu": self.gpu,
            "embedding_dim": case.embedding_dim,
            "optimizer": "adam",
            "loss": "binary_crossentropy",
            "metrics": METRICS,
            "verbose": 0,
            "model_root": str(self.folder),
        }
        if case.history is not None:
            return DIN(
                self._features(),
                dnn_hidden_units=list(case.hidden_units),
                attention_hidden_units=list(ATTENTION_UNITS),
                task="binary_classification",
                **common,
            )
        if case.kind == "mmoe":
            return MMoE(self._features(), **common)
        cross = CROSS_LAYERS if case.kind == "dcn" else 0
        return Deep(self._features(), list(case.hidden_units), cross, **common)


class Deep(BaseModel):
    """FuxiCTR's DNN, or its DCN where there are cross layers."""

    def __init__(
        self,
        features: FeatureMap,
        units: list[int],
        cross: int,
        embedding_dim: int,
        **common: object,
    ) -> None:
        super().__init__(features, task="binary_classification", **common)
        self.embedding_layer = FeatureEmbedding(features, embedding_dim)
        dim = features.sum_emb_out_dim()
        self.cross = CrossNet(dim, cross) if cross else None
        self.dnn = MLP_Block(dim, units, output_dim=None if cross else 1)
        self.fc = nn.Linear(dim + units[-1], 1) if cross else nn.Identity()
        self.compile(common["optimizer"], common["loss"], 1e-3)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The probabilities."""
        x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        deep = self.dnn(x)
        if self.cross is not None:
            deep = torch.cat([self.cross(x), deep], dim=-1)
        return {"y_pred": self.output_activation(self.fc(deep))}


class MMoE(MultiTaskModel):
    """FuxiCTR's MMoE, which its wheel names but doesn't have."""

    def __init__(self, features: FeatureMap, embedding_dim: int, **common: object) -> None:
        tasks = len(features.labels)
        super().__init__(
            features, task=["binary_classification"] * tasks, num_tasks=tasks, **common
        )
        self.embedding_layer = FeatureEmbedding(features, embedding_dim)
        dim = features.sum_emb_out_dim()
        self.experts = nn.ModuleList(MLP_Block(dim, list(EXPERT_UNITS)) for _ in range(EXPERTS))
        self.gates = nn.ModuleList(
            MLP_Block(dim, output_dim=EXPERTS, use_bias=False) for _ in range(tasks)
        )
        self.towers = nn.ModuleList(
            MLP_Block(EXPERT_UNITS[-1], list(TOWER_UNITS), output_dim=1) for _ in range(tasks)
        )
        self.compile(common["optimizer"], common["loss"], 1e-3)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The probabilities of each task."""
        x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)  # (B, E, H)
        outputs = {}
        for index, label in enumerate(self.feature_map.labels):
            shares = self.gates[index](x).softmax(dim=-1).unsqueeze(-1)  # (B, E, 1)
            logit = self.towers[index]((shares * experts).sum(dim=1))
            outputs[f"{label}_pred"] = self.output_activation[index](logit)
        return outputs


def _write_log(arrays: Arrays, folder: Path) -> None:
    """The three Parquet files of FuxiCTR's loader for histories."""
    if (folder / "done.json").exists():
        return
    columns, lengths = arrays.columns, np.diff(arrays.offsets)
    train = {
        "user_index": columns["user"],
        "item_index": columns["item"],
        "seq_len": lengths[columns["user"]],
        "user": columns["user"],
        "click": columns["click"],
    }
    pd.DataFrame(train).to_parquet(folder / "train.parquet")
    steps = np.split(np.asarray(arrays.history), arrays.offsets[1:-1])
    pd.DataFrame({"full_item_seq": steps}).to_parquet(folder / "users.parquet")
    items = np.arange(arrays.sizes["item"])
    items_of = {"item_index": items, "item": items, "category": arrays.category_of_item}
    pd.DataFrame(items_of).to_parquet(folder / "items.parquet")
    (folder / "done.json").write_text(json.dumps({"rows": len(columns["user"])}))
