"""Training steps that a device is told once and then replays, as CUDA graphs.

A step is hundreds of operations, and to tell a device of one takes the host several times as long
as the device needs for it. A replay is told in one. But it does the same again, with the same
sizes and at the same places: so a batch is made by the device itself from its requests, and filled
up to sizes that come again (see `finerank.nn.filled`).
"""

from __future__ import annotations

import math
from textwrap import shorten
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import torch

from finerank.data.batch import sent
from finerank.data.placement import Requests, Resident, Unmade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from finerank.data.batch import Batch
    from finerank.data.placement import PlacedSet
    from finerank.training.id_dropout import IdDropout
    from finerank.training.optimizers import Optimizers

_DEVIATIONS = 3  # of a batch's size from the mean that there is room for at once
_UNUSUAL = 2  # times as much as few batches have more of: such a one is done as it is told
_FILLING = 32  # requests and candidates, among which what fills a batch up is shared
_OF_FLAT = {("requests",), ("candidates",)}  # what a flat table's batch has
_FEWEST = 2  # of everything, for a batch that is replayed: there is no variance of fewer


class Replay:
    """Does training steps by replaying one, where a batch fits into it.

    The first step is done as it is told, so that everything that stays is there; the second is
    recorded. It is recorded anew when a batch needs more room than any before, when the learning
    rate has changed, or when what the optimisers keep has moved. What can't be recorded is no
    reason to stop: from then on all steps are done as they are told.

    Args:
        examples: on a device.
        step: does a step; the loss of each task ``(T,)``.
        optimizers: what updates the weights in it.
        drop: what is done to each batch before.

    Attributes:
        unmade: what a loader is to tell the requests of.
        warning: why nothing is replayed any more; else empty.
        replayed: how many steps were.
    """

    def __init__(
        self,
        examples: Resident,
        step: Callable[[Batch], Tensor],
        optimizers: Optimizers,
        drop: IdDropout | None = None,
    ) -> None:
        self.unmade, self.warning, self.replayed = Unmade(examples), "", 0
        self._examples, self._step, self._optimizers = examples, step, optimizers
        self._drop = drop
        self._of_requests = {
            name: _PerRequest.of(each) for name, each in examples.sizes_of_requests.items()
        }
        self._room: dict[tuple[str, ...], int] = {}
        self._input = torch.empty(0, dtype=torch.int64, device=examples.device)
        self._known = False  # whether a step was done
        self._recorded: Callable[[], None] | None = None
        self._losses: Tensor | None = None
        self._learning_rate = 0.0

    def step(self, requests: Requests) -> Tensor:
        """Learn from the batch of some requests; the loss of each task ``(T,)``.

        The losses are overwritten by the next step.
        """
        sizes = {("requests",): len(requests.rows), **requests.sizes}
        if self._optimizers.make_room() or self._optimizers.learning_rate != self._learning_rate:
            self._recorded, self._learning_rate = None, self._optimizers.learning_rate
        if self.warning or min(sizes.values()) < _FEWEST or self._is_unusual(sizes):
            return self._told(sent(requests.rows, self._input.device), requests.sizes)
        if any(size >= self._room.get(name, 0) for name, size in sizes.items()):
            self._make_room(sizes)
        self._tell(requests.rows)
        if not self._known:
            self._known = True
            return self._in_room()
        if self._recorded is None:
            try:
                generators = [] if self._drop is None else [self._drop.generator]
                self._recorded = record(self._do, self._input.device, generators)
            except RuntimeError as error:
                self.warning = (
                    "training: steps could not be replayed, so that training went on as without: "
                    f"{shorten(f'{type(error).__name__}: {error}', 300)}"
                )
                return self._in_room()
        else:
            self._optimizers.count_replayed()
        self._recorded()
        self.replayed += 1
        assert self._losses is not None
        return self._losses

    def _is_unusual(self, sizes: dict[tuple[str, ...], int]) -> bool:
        """Whether all batches would be slow if there were room for such a one."""
        count = sizes["requests",]
        return any(
            sizes[name] > _UNUSUAL * each.usual(count) for name, each in self._of_requests.items()
        )

    def _make_room(self, sizes: dict[tuple[str, ...], int]) -> None:
        """For almost all batches of about as many candidates, and for what fills them up.

        What fills up has more than one row where rows have lists of something: one long list would
        take a device longer than all others.
        """
        needed, of_candidates = dict(sizes), self._of_requests["candidates",]
        needed["candidates",] += of_candidates.usual(1)
        spread = of_candidates.std / of_candidates.mean  # how the number of requests varies
        needed["requests",] += int(_DEVIATIONS * spread * sizes["requests",] ** 0.5)
        for name, each in self._of_requests.items():
            if name != ("candidates",):
                needed[name] = max(needed[name], each.usual(needed["requests",]))
        filling = 1 if sizes.keys() == _OF_FLAT else _FILLING
        self._room = {
            name: max(self._room.get(name, 0), n + (filling if name in _OF_FLAT else 1))
            for name, n in needed.items()
        }
        self._input = self._input.new_empty(self._room["requests",] + 1)
        self._recorded = None

    def _tell(self, rows: Tensor) -> None:
        """Let the device know the requests, and how many they are; it need not be waited for."""
        told = torch.full((len(self._input),), int(rows[-1]))
        told[0], told[1 : len(rows) + 1] = len(rows), rows
        if self._input.is_cuda:
            told = told.pin_memory()
        self._input.copy_(told, non_blocking=True)

    def _do(self) -> None:
        self._losses = self._in_room()

    def _in_room(self) -> Tensor:
        """A step with the batch of the requests that the device was told last."""
        return self._told(self._input[1:], self._room, self._input[0])

    def _told(
        self,
        requests: Tensor,
        sizes: dict[tuple[str, ...], int],
        count: Tensor | None = None,
    ) -> Tensor:
        batch = self._examples.made(requests, sizes, count)
        return self._step(batch if self._drop is None else self._drop(batch))


def is_possible(examples: PlacedSet) -> TypeGuard[Resident]:
    """Whether a device that can replay makes the batches of these examples."""
    return isinstance(examples, Resident) and examples.device.type == "cuda"


def record(
    function: Callable[[], None], device: torch.device, generators: Iterable[torch.Generator]
) -> Callable[[], None]:
    """Tell a device of what a function does, without doing it; what is returned does it.

    Args:
        function: waits for nothing.
        device: that does it.
        generators: that it draws from, beside the device's own.
    """
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    stream = torch.cuda.Stream(device)
    # a loader's thread may ask for memory meanwhile
    mode = "thread_local"
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream, capture_error_mode=mode):
        function()
    return graph.replay


class _PerRequest(NamedTuple):
    """How many of something a request has."""

    mean: float
    std: float

    @classmethod
    def of(cls, counts: Tensor) -> _PerRequest:
        """Of those of all requests ``(R,)``."""
        numbers = counts.double()
        return cls(float(numbers.mean()), float(numbers.std(correction=0)))

    def usual(self, requests: int) -> int:
        """What few batches of so many requests have more of; it is a sum over the requests."""
        return math.ceil(self.mean * requests + _DEVIATIONS * self.std * requests**0.5)
