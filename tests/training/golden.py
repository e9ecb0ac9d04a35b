"""Writes the losses of the first ten steps of DNN and DIN, for `test_golden.py`.

Run it from the repository, after a change that is meant to change training, and say why in the
change: ``OMP_NUM_THREADS=1 python tests/training/golden.py``. Batches are drawn with NumPy and
weights are set from it, so the curve depends on the model, the loss and Adam alone.
"""

import json
from pathlib import Path

import numpy as np
import torch

from finerank.data.batch import Batch, Jagged, Steps
from finerank.data.schema import Feature, History, Schema
from finerank.models.registry import build
from finerank.settings import ModelSettings
from finerank.training.loss import task_losses

FILE = Path(__file__).with_name("golden.json")
ORIGIN = "OMP_NUM_THREADS=1 python tests/training/golden.py, torch {}, on a CPU"
STEPS, REQUESTS, USERS, ITEMS, TAGS = 10, 16, 20, 30, 7

SCHEMA = Schema(
    (
        Feature("user", "user", "id", "log", "user", USERS, "user"),
        Feature("hour", "context", "number", "log", "hour", 1),
        Feature("item", "item", "id", "log", "item", ITEMS, "item"),
        Feature("tags", "item", "ids", "log", "tags", TAGS, "tags"),
    ),
    (History("clicked", ("item", "tags"), max_length=8),),
    ("click", "order"),
)


def ragged(random: np.random.Generator, rows: int, most: int, size: int) -> Jagged:
    offsets = np.concatenate([[0], random.integers(0, most, rows).cumsum()])
    values = torch.from_numpy(random.integers(0, size, offsets[-1]).astype(np.int32))
    return Jagged(values, torch.from_numpy(offsets))


def batch(random: np.random.Generator) -> Batch:
    request = np.repeat(np.arange(REQUESTS), random.integers(1, 5, REQUESTS))
    count = len(request)
    clicked = ragged(random, REQUESTS, 8, ITEMS)
    labels = random.integers(0, 2, (count, 2)).astype(np.float32)
    labels[labels[:, 0] == 0, 1] = np.nan
    return Batch(
        request={
            "user": torch.from_numpy(random.integers(0, USERS, REQUESTS)),
            "hour": torch.from_numpy(random.standard_normal(REQUESTS).astype(np.float32)),
        },
        candidate={
            "item": torch.from_numpy(random.integers(0, ITEMS, count)),
            "tags": ragged(random, count, 3, TAGS),
        },
        histories={
            "clicked": Steps(
                {"item": clicked.values, "tags": ragged(random, len(clicked.values), 3, TAGS)},
                clicked.offsets,
            )
        },
        request_of_candidate=torch.from_numpy(request),
        labels=torch.from_numpy(labels),
        user=torch.arange(REQUESTS),
    )


def curve(name: str) -> list[list[float]]:
    """The losses in nats of each task, a step a row."""
    random = np.random.default_rng(0)
    units = {"hidden_units": [8, 4]} | ({"attention_hidden_units": [6]} if name == "din" else {})
    model = build(SCHEMA, ModelSettings(name=name, embedding_dim=4, **units))
    with torch.no_grad():
        for parameter in model.parameters():
            values = random.standard_normal(tuple(parameter.shape)) * 0.3
            parameter.copy_(torch.from_numpy(values))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(STEPS):
        each = batch(random)
        step = task_losses(model(each), each.labels)
        optimizer.zero_grad()
        step.sum().backward()
        optimizer.step()
        losses.append([round(loss, 7) for loss in step.tolist()])
    return losses


if __name__ == "__main__":
    content = {
        "origin": ORIGIN.format(torch.__version__),
        "losses_nats": {name: curve(name) for name in ("dnn", "din")},
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")
