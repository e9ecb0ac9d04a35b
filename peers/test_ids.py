"""What becomes of ids and histories before a peer's model reads them."""

import numpy as np
import pytest
import torch
from deepctr_torch import models as deepctr
from deepctr_torch.inputs import SparseFeat
from fuxictr.preprocess import FeatureProcessor

from finerank.data.batch import Batch
from finerank.data.events import EventStore
from finerank.data.schema import Feature, Schema
from finerank.models.dcn import DCN

LARGE = 2**24  # from here on float32 has no odd numbers


def test_deepctr_reads_ids_as_float32():
    """Items 16,777,216 and 16,777,217 are one item."""
    torch.set_default_dtype(torch.float32)
    theirs = deepctr.DCN([], [SparseFeat("item", LARGE + 2, 1)], dnn_hidden_units=(2,))
    table = theirs.embedding_dict["item"].weight.data
    table[LARGE], table[LARGE + 1] = 5, -5
    for parameter in (theirs.crossnet.kernels, theirs.dnn_linear.weight):
        torch.nn.init.ones_(parameter)
    ids = np.array([LARGE, LARGE + 1])
    even, odd = theirs.predict({"item": ids}).ravel()
    assert even == odd
    assert even == pytest.approx(theirs.predict({"item": ids[:1]}).item())

    size = LARGE + 2
    schema = Schema((Feature("item", "item", "id", "log", "item", size, "item"),), (), ("click",))
    ours = DCN(schema, embedding_dim=1, hidden_units=(2,)).eval()
    ours.inputs.tables["of_item"].data[LARGE:] = torch.tensor([[5.0], [-5.0]])
    request_of_candidate, user = torch.zeros(2, dtype=torch.int64), torch.zeros(1)
    batch = Batch({}, {"item": torch.from_numpy(ids)}, {}, request_of_candidate, None, user)
    even, odd = ours(batch).ravel()
    assert even != odd


@pytest.mark.parametrize(("padding", "kept"), [({}, "abc"), ({"padding": "pre"}, "cde")])
def test_fuxictr_keeps_the_oldest_steps_by_default(tmp_path, padding, kept):
    """Of five steps, oldest first, and a longest history of three."""
    column = {"name": "history", "type": "sequence", "dtype": "str", "max_len": 3, **padding}
    label = {"name": "click", "dtype": "float"}
    processor = FeatureProcessor([column], label, dataset_id="shop", data_root=str(tmp_path))
    processor.rebuild_dataset = True
    processor.fit_sequence_col(column, {"value_counts": dict.fromkeys("abcde", 1), "max_len": 5})
    tokenizer = processor.processor_dict["history::tokenizer"]
    (ids,) = tokenizer.encode_sequence(["a^b^c^d^e"])
    assert ids.tolist() == [tokenizer.vocab[step] for step in kept]

    store = EventStore(torch.arange(5), None, {}, torch.tensor([0, 5]))
    (first,), (end,) = store.window(np.array([0]), np.array([5]), max_length=3)
    assert "abcde"[first:end] == "cde"
