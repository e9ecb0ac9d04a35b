"""What a split of a prepared data set holds in memory."""

import gc
import weakref

import pytest
import torch

from finerank.data import arrow_file
from finerank.data.arrow_file import read_columns
from finerank.data.dataset import Dataset


@pytest.fixture
def dataset(shop):
    return Dataset(next((shop.folder / ".finerank").iterdir()))


def test_where_candidates_begin_is_held_once(dataset, monkeypatch):
    mappings, mapped = [], arrow_file.mapped

    def noted(path):
        content = mapped(path)
        if path.name == "requests.arrow":
            mappings.append(weakref.ref(content))
        return content

    monkeypatch.setattr(arrow_file, "mapped", noted)
    train = dataset.split("train")
    gc.collect()
    assert [mapping() is not None for mapping in mappings] == [True, False]
    stored = read_columns(dataset.folder / "train" / "requests.arrow")["first_candidate"]
    assert train.first_candidate.tolist() == [*stored.tolist(), len(train.labels[0])]
    assert train.first_candidate.dtype == torch.int32
