"""Examples whose batches are made for a device: on it where they fit, else on the host.

Shapes: ``R`` requests, ``B`` candidates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch.nn import functional

from finerank.data.batch import Jagged, sent
from finerank.data.columns import side_by_side
from finerank.data.examples import Examples

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from finerank.data.batch import Batch, Column
    from finerank.data.examples import Sizes
    from finerank.data.fresh import TrainingSet
    from finerank.data.schema import Feature

_SHARE = 0.5  # of the free memory of a device that examples may take; the rest is the batches'


class Placement:
    """Puts sets of examples on a device; what they share is there once.

    Args:
        device: where the batches are needed.
        room: bytes that examples may take there; half of what is free where left out.
    """

    def __init__(self, device: torch.device, *, room: int | None = None) -> None:
        self.device, self._room = device, room
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}  # by the host's tensor, kept with it
        self._own_bytes = 0  # of what the sets don't share

    def place(self, examples: PlacedSet) -> PlacedSet:
        """The examples as they are for the CPU, else `Resident` where there is room or `Copied`."""
        if self.device.type == "cpu" or isinstance(examples, Resident | Copied):
            return examples
        if isinstance(examples, Examples) and self._bytes_more(examples) <= self._room_left():
            return Resident(examples, self._on_device(examples), self.device)
        return Copied(examples, self.device)

    def _bytes_more(self, examples: Examples) -> int:
        """What the device doesn't hold yet."""
        new: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            if id(tensor) not in self._moved:
                new[id(tensor)] = tensor.nbytes
            return tensor

        examples.map(count)
        return sum(new.values())

    def _room_left(self) -> int:
        if self._room is not None:
            shared = sum(moved.nbytes for _, moved in self._moved.values())
            return self._room - shared - self._own_bytes
        if self.device.type != "cuda":
            return 0
        return int(_SHARE * torch.cuda.mem_get_info(self.device)[0])

    def _on_device(self, examples: Examples) -> Examples:
        """A copy on the device; a set's own columns side by side, for nobody shares them."""
        own = [side_by_side(each, self.device) for each in (examples.request, examples.candidate)]
        others = replace(
            examples,
            request={n: c for n, c in examples.request.items() if n not in own[0]},
            candidate={n: c for n, c in examples.candidate.items() if n not in own[1]},
        ).map(self._to_device)
        self._own_bytes += self._bytes_more(examples)
        return replace(others, request=others.request | own[0], candidate=others.candidate | own[1])

    def _to_device(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._moved:
            self._moved[id(tensor)] = tensor, tensor.to(self.device)
        return self._moved[id(tensor)][1]


class Resident:
    """Examples that lie on a device: all that a batch takes from the host is its requests.

    Args:
        examples: on the host.
        on_device: the same on the device.
        device: which.

    Attributes:
        first_candidate: as in `Examples`, on the host; `by_steps` likewise.
        sizes_of_requests: what each request adds to the sizes of a batch ``(R,)``, on the host.
    """

    def __init__(self, examples: Examples, on_device: Examples, device: torch.device) -> None:
        self.schema, self.device = examples.schema, device
        self.first_candidate, self.by_steps = examples.first_candidate, examples.by_steps
        self._on_device, self.sizes_of_requests = on_device, sizes_of_requests(examples)

    @property
    def num_requests(self) -> int:
        """How many requests."""
        return len(self.first_candidate) - 1

    @property
    def num_candidates(self) -> int:
        """How many candidates, over all requests."""
        return int(self.first_candidate[-1])

    def batch(self, requests: Tensor) -> Batch:
        """The batch of the given requests, on the device.

        Args:
            requests: their rows ``(R,)``, int64, on the host.
        """
        return self.made(sent(requests, self.device), self.sizes(requests))

    def sizes(self, requests: Tensor) -> dict[tuple[str, ...], int]:
        """What the batch of the given requests ``(R,)`` has of everything, read on the host."""
        return {
            name: int(each.index_select(0, requests).sum())
            for name, each in self.sizes_of_requests.items()
        }

    def made(self, requests: Tensor, sizes: Sizes, count: Tensor | None = None) -> Batch:
        """The batch of requests that the device knows, as `Examples.batch` makes it."""
        return self._on_device.batch(requests, sizes, count)


class Requests(NamedTuple):
    """A batch that isn't made yet.

    Attributes:
        rows: of the requests ``(R,)``, on the host.
        sizes: what the batch will have of everything, as in `finerank.data.examples.Sizes`.
    """

    rows: Tensor
    sizes: dict[tuple[str, ...], int]

    @property
    def num_candidates(self) -> int:
        """How many candidates the batch will have."""
        return self.sizes["candidates",]


class Unmade:
    """Resident examples, of whose batches a loader tells the requests only.

    Args:
        examples: on a device.
    """

    def __init__(self, examples: Resident) -> None:
        self.examples = examples
        self.first_candidate, self.by_steps = examples.first_candidate, examples.by_steps
        self.num_requests, self.num_candidates = examples.num_requests, examples.num_candidates

    def batch(self, requests: Tensor) -> Requests:
        """The requests, and what their batch will have."""
        return Requests(requests, self.examples.sizes(requests))


class Copied:
    """Examples whose batches are made on the host and copied to a device.

    Args:
        examples: on the host.
        device: where the batches are needed.
    """

    def __init__(self, examples: TrainingSet, device: torch.device) -> None:
        self.examples, self.schema, self.device = examples, examples.schema, device
        self.first_candidate, self.by_steps = examples.first_candidate, examples.by_steps

    @property
    def num_requests(self) -> int:
        """How many requests."""
        return self.examples.num_requests

    @property
    def num_candidates(self) -> int:
        """How many candidates, over all requests."""
        return self.examples.num_candidates

    def batch(self, requests: Tensor) -> Batch:
        """The batch of the given requests, on the device.

        Args:
            requests: their rows ``(R,)``, int64, on the host.
        """
        batch = self.examples.batch(requests)
        histories = {}
        for name, steps in batch.histories.items():
            lengths = steps.offsets.diff().index_select(0, batch.request_of_candidate)
            histories[name] = steps._replace(num_pairs=int(lengths.sum()))
        return replace(batch, histories=histories).to(self.device)


PlacedSet: TypeAlias = "TrainingSet | Resident | Copied"


def sizes_of_requests(examples: Examples) -> dict[tuple[str, ...], Tensor]:
    """What each request adds to the sizes of a batch ``(R,)``, under the names of `Sizes`."""
    first, schema = examples.first_candidate, examples.schema
    requests, candidates = torch.arange(examples.num_requests), first.diff()
    sizes: dict[tuple[str, ...], Tensor] = {("candidates",): candidates}

    def add_values(
        name: tuple[str, ...],
        features: Iterable[Feature],
        own: dict[str, Column],
        entity: Tensor | None,
        rows: tuple[Tensor, Tensor],
    ) -> None:
        """The values of jagged features in the rows from the first up to the second, a request."""
        for feature in features:
            column, by_entity = examples.source(feature, own)
            if isinstance(column, Jagged):
                lengths = column.offsets.diff()
                if by_entity:
                    assert entity is not None
                    lengths = lengths.index_select(0, entity)
                before = functional.pad(lengths.cumsum(0), (1, 0))  # up to each row
                start, end = (before.index_select(0, each) for each in rows)
                sizes[*name, feature.name] = end - start

    rows = requests, requests + 1
    add_values(("request",), schema.request_features, examples.request, examples.user, rows)
    rows = first[:-1], first[1:]
    add_values(("candidate",), schema.candidate_features, examples.candidate, examples.item, rows)
    for history in schema.histories:
        store, rows = examples.stores[history.name], examples.windows[history.name]
        sizes["steps", history.name] = steps = rows[1] - rows[0]
        sizes["pairs", history.name] = candidates * steps
        features = map(schema.feature, history.features)
        add_values(("steps", history.name), features, store.columns, store.item, rows)
    return sizes
