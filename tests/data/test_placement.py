"""Batches for a device: the same as the host's, and what they need to know of sizes beforehand."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from finerank.data.batch import Batch, Jagged
from finerank.data.dataset import Dataset
from finerank.data.examples import Examples
from finerank.data.placement import Copied, Placement, Resident, sizes_of_requests
from finerank.nn import host

META = torch.device("meta")
CPU = torch.device("cpu")
ORDERS = [[2, 0, 3], [1], [], [3, 2, 1, 0]]


def parts(batch: Batch) -> dict[str, torch.Tensor]:
    """All tensors of a batch by name."""
    columns = {f"request {name}": column for name, column in batch.request.items()}
    columns |= {f"candidate {name}": column for name, column in batch.candidate.items()}
    found = {"of candidate": batch.request_of_candidate, "labels": batch.labels, "user": batch.user}
    for history, steps in batch.histories.items():
        columns |= {f"{history} {name}": column for name, column in steps.columns.items()}
        found[f"{history} offsets"] = steps.offsets
    for name, column in columns.items():
        of_column = column if isinstance(column, Jagged) else [column]
        found |= {f"{name} {place}": tensor for place, tensor in enumerate(of_column)}
    return found


def assert_same(found: Batch, expected: Batch) -> None:
    expected = parts(expected)
    assert parts(found).keys() == expected.keys()
    for name, tensor in parts(found).items():
        assert tensor.dtype == expected[name].dtype, name
        torch.testing.assert_close(tensor, expected[name], equal_nan=True, msg=name)


@pytest.fixture(scope="module")
def dataset(shop, tmp_path_factory):
    """With features from the user table and the item table, lists among them."""
    return Dataset(next((shop.folder / ".finerank").iterdir()))


@pytest.fixture(params=["every type", "flat", "users only", "one history", "shop"])
def examples(request, made, dataset):
    if request.param == "shop":
        return dataset.split("train")
    return made.examples(made.schemas[request.param], candidates=(3, 1, 2, 4), steps=(2, 0, 5, 1))


def as_if_resident(examples: Examples) -> Resident:
    return Resident(examples, examples, CPU)


@pytest.mark.parametrize("order", ORDERS)
def test_sizes_are_those_of_the_batch(examples, order):
    requests = torch.tensor(order, dtype=torch.int64)
    batch = examples.batch(requests)
    expected = {("candidates",): len(batch.request_of_candidate)}
    sides = {("request",): batch.request, ("candidate",): batch.candidate}
    for name, steps in batch.histories.items():
        lengths = steps.offsets.diff().tolist()
        expected["steps", name] = sum(lengths)
        expected["pairs", name] = sum(lengths[r] for r in batch.request_of_candidate.tolist())
        sides["steps", name] = steps.columns
    for side, columns in sides.items():
        for name, column in columns.items():
            if isinstance(column, Jagged):
                expected[*side, name] = len(column.values)
    sizes = sizes_of_requests(examples)
    assert {name: int(each[requests].sum()) for name, each in sizes.items()} == expected


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", [as_if_resident, lambda examples: Copied(examples, CPU)])
def test_batches_are_those_of_the_host(examples, order, kind):
    requests = torch.tensor(order, dtype=torch.int64)
    placed, batch = kind(examples), examples.batch(requests)
    found = placed.batch(requests)
    assert_same(found, batch)
    assert placed.num_requests == examples.num_requests
    assert placed.num_candidates == examples.num_candidates
    for name, steps in found.histories.items():
        lengths = batch.histories[name].offsets.diff()
        assert steps.num_pairs == int(lengths[batch.request_of_candidate].sum())


@pytest.mark.parametrize("order", ORDERS)
def test_columns_side_by_side_are_taken_in_one(made, monkeypatch, order):
    """With ids, numbers, lists and vectors among them; the others as they were."""
    monkeypatch.setattr(host, "is_readable", lambda tensor: False)
    examples = made.examples(
        made.schemas["every type"], candidates=(3, 1, 2, 4), steps=(2, 0, 5, 1)
    )
    placement = Placement(META, room=2**40)
    placement.device = CPU  # from which batches can be read
    placed = Resident(examples, placement._on_device(examples), CPU)
    requests = torch.tensor(order, dtype=torch.int64)
    with Operations() as operations:
        found = placed.batch(requests)
    assert_same(found, examples.batch(requests))
    own = [examples.request, examples.candidate]
    plain = [c for columns in own for c in columns.values() if isinstance(c, torch.Tensor)]
    types = [{c.dtype for c in columns.values() if isinstance(c, torch.Tensor)} for columns in own]
    assert len(plain) > sum(map(len, types))
    as_they_are = as_if_resident(examples)
    with Operations() as one_by_one:
        as_they_are.batch(requests)
    saved = one_by_one.count - operations.count
    assert saved == len([c for c in plain if c.ndim == 1]) - sum(map(len, types))


class Operations(TorchDispatchMode):
    """Counts those that take rows."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket is torch.ops.aten.index_select
        return func(*args, **(kwargs or {}))


def test_a_batch_is_made_on_the_device(examples):
    """There is nothing to read on this device; the shapes are known all the same."""
    requests = torch.tensor([1, 0])
    expected = parts(examples.batch(requests))
    placed = Placement(META, room=2**40).place(examples)
    assert isinstance(placed, Resident)
    for placed_set in (placed, Copied(examples, META)):
        for name, tensor in parts(placed_set.batch(requests)).items():
            assert tensor.device == META, name
            assert tensor.shape == expected[name].shape, name


def nbytes(examples: Examples) -> int:
    sizes = []
    examples.map(lambda tensor: sizes.append(tensor.nbytes) or tensor)
    return sum(sizes)


def test_resident_where_there_is_room(made):
    examples = made.examples(made.schemas["every type"], candidates=(3, 1), steps=(2, 5))
    unused = examples.first_candidate.new_zeros(9)
    store = replace(examples.stores["clicked"], time=unused, user_offsets=unused)
    examples = replace(examples, stores=examples.stores | {"clicked": store})
    needed = nbytes(examples)
    assert isinstance(Placement(META, room=needed).place(examples), Resident)
    assert isinstance(Placement(META, room=needed - 1).place(examples), Copied)
    assert isinstance(Placement(META, room=0).place(examples), Copied)


def test_what_two_sets_share_is_on_the_device_once(dataset):
    train, valid = dataset.split("train"), dataset.split("valid")
    held = {}
    for each in (train, valid):
        each.map(lambda tensor: held.setdefault(id(tensor), tensor))
    needed = sum(tensor.nbytes for tensor in held.values())
    assert needed < nbytes(train) + nbytes(valid)
    placement = Placement(META, room=needed)
    assert isinstance(placement.place(train), Resident)
    placed = placement.place(valid)
    assert isinstance(placed, Resident)
    assert isinstance(placement.place(dataset.split("test")), Copied)
    assert placement.place(placed) is placed


def test_on_the_cpu_nothing_is_placed(examples):
    assert Placement(CPU).place(examples) is examples


def test_free_memory_is_asked_of_the_device(made, monkeypatch):
    examples = made.examples(made.schemas["flat"], candidates=(3, 1), steps=(2, 5))
    placement = Placement(torch.device("cuda", 1))
    for free, kind in ((2 * nbytes(examples), Resident), (2 * nbytes(examples) - 2, Copied)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        monkeypatch.setattr(placement, "_on_device", lambda examples: examples)
        assert isinstance(placement.place(examples), kind)
