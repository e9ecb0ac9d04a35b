"""The floor: what no implementation of a step can leave out on this machine.

The bare matrix products of the step, forward and twice backward, with their shapes and nothing
else, by the faster of the two libraries that torch has for them; and one read and one write of the
batch's embedding rows, with both moments of Adam. DIN's attention is counted as its smallest form:
the first layer once a candidate, once a step and once a pair, no padding; where every request has
one candidate and a full history, once a candidate and once a pair, the steps' part joined to it.
Activations, losses, gathers of the history and the optimiser of the dense weights are not in it.
"""

from __future__ import annotations

import itertools
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from cases import ATTENTION_UNITS, CROSS_LAYERS, EXPERT_UNITS, EXPERTS, TOWER_UNITS
from measure import READY_BATCHES
from synthetic import load, make

from finerank.nn.onednn import rounded_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cases import Case
    from measure import Clock

Shape = tuple[int, int, int]  # rows, input width, output width


class Side:
    """The floor of a case."""

    def __init__(self, case: Case, work: Path, device: str) -> None:
        self.case, self.device = case, torch.device(device)
        self.arrays = load(make(case, work))
        self.batches = self._batches()

    def train(self, measure: str, clock: Clock) -> None:  # noqa: ARG002
        """Multiply and copy until the clock ends it."""
        dim = self.case.embedding_dim
        tables = {
            name: [torch.zeros(size, dim, device=self.device) for _ in range(3)]
            for name, size in self.arrays.sizes.items()
        }
        shapes = [self.products(pairs, steps) for _, pairs, steps in self.batches]
        largest = [max(each) for each in zip(*shapes, strict=True)]
        products = [_Product(shape, self.device) for shape in largest]
        rows = [
            {
                name: torch.from_numpy(np.unique(each)).to(self.device, torch.int64)
                for name, each in ids.items()
            }
            for ids, _, _ in self.batches
        ]
        for batch in itertools.cycle(range(len(shapes))):
            for product, (count, _, _) in zip(products, shapes[batch], strict=True):
                product.run(count)
            for name, each in rows[batch].items():
                for table in tables[name]:
                    table.index_copy_(0, each, table.index_select(0, each))
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            clock.tick(self.case.batch_size)

    def _batches(self) -> list[tuple[dict[str, np.ndarray], int, int]]:
        """Of some batches: the ids in each table, the pairs and the steps of attention."""
        arrays, case = self.arrays, self.case
        random = np.random.default_rng(0)
        rows = len(next(iter(arrays.columns.values())))
        found = []
        for _ in range(READY_BATCHES):
            take = random.integers(0, rows // case.candidates, case.batch_size // case.candidates)
            take = (take[:, None] * case.candidates + np.arange(case.candidates)).ravel()
            ids = {name: arrays.columns[name][take] for name in arrays.sizes}
            pairs = steps = 0
            if case.history is not None:
                user = ids["user"][:: case.candidates]
                starts, ends = arrays.offsets[user], arrays.offsets[user + 1]
                steps = int((ends - starts).sum())
                pairs = steps * case.candidates
                past = [arrays.history[a:b] for a, b in zip(starts, ends, strict=True)]
                items = np.concatenate([ids["item"], *past])
                ids |= {"item": items, "category": arrays.category_of_item[items]}
            found.append((ids, pairs, steps))
        return found

    def products(self, pairs: int, steps: int) -> list[Shape]:
        """The matrix products of one forward pass."""
        case, batch, dim = self.case, self.case.batch_size, self.case.embedding_dim
        if case.history is not None:
            joint, (first, *_) = 2 * dim, ATTENTION_UNITS
            alone = 0 if case.history == "full" and case.candidates == 1 else steps
            attention = [(batch, joint, first), (alone, joint, first), (pairs, joint, first)]
            attention += [(pairs, *layer) for layer in pairwise((*ATTENTION_UNITS, 1))]
            return [*attention, *_mlp(batch, 5 * dim, (*case.hidden_units, 1))]
        width = len(case.id_sizes) * dim + case.numbers
        if case.kind == "mmoe":
            tasks = len(case.tasks)
            first, *others = EXPERT_UNITS
            experts = [(batch, width, EXPERTS * first), *_mlp(batch, first, others) * EXPERTS]
            towers = _mlp(batch, EXPERT_UNITS[-1], (*TOWER_UNITS, 1)) * tasks
            return [*experts, (batch, width, EXPERTS * tasks), *towers]
        if case.kind == "dcn":
            deep = _mlp(batch, width, case.hidden_units)
            last = (batch, width + case.hidden_units[-1], 1)
            return [*deep, *[(batch, width, 1)] * CROSS_LAYERS, last]
        return _mlp(batch, width, (*case.hidden_units, 1))


class _Product:
    """A matrix product and both of its backward ones, into memory that is there already.

    By MKL, to which torch leaves float32, or by oneDNN, whose go to memory of its own: whichever
    is the faster when it is made.

    Args:
        shape: with the most rows that it gets.
    """

    def __init__(self, shape: Shape, device: torch.device) -> None:
        rows, width, out = shape
        even = rounded_up(rows)
        self.x, self.weight, self.y = (
            torch.ones(*size, device=device) for size in ((even, width), (width, out), (even, out))
        )
        self.x_grad, self.weight_grad = torch.ones_like(self.x), torch.ones_like(self.weight)
        self.run = self._by_default
        if device.type == "cpu" and rows > 0 and torch.backends.mkldnn.is_available():
            self.run = min((self._by_default, self._by_onednn), key=lambda way: _seconds(way, rows))

    def _by_default(self, rows: int) -> None:
        """Multiply, with so many rows."""
        x, y = self.x[:rows], self.y[:rows]
        torch.mm(x, self.weight, out=y)
        torch.mm(y, self.weight.t(), out=self.x_grad[:rows])
        torch.mm(x.t(), y, out=self.weight_grad)

    def _by_onednn(self, rows: int) -> None:
        """The same, with a number of rows that it has a kernel for."""
        x, y = (each[: rounded_up(rows)] for each in (self.x, self.y))
        multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - the one door to it
        multiply(x, self.weight.t(), None, "none", [], "")
        multiply(y, self.weight, None, "none", [], "")
        wide, narrow = (x, y) if x.shape[1] > y.shape[1] else (y, x)
        torch.ops.aten.convolution_backward(  # of one pixel a row, for its weight
            _pixels(wide),
            _pixels(narrow),
            x.new_empty(1).expand(wide.shape[1], narrow.shape[1], 1, 1),
            None,
            stride=[1, 1],
            padding=[0, 0],
            dilation=[1, 1],
            transposed=False,
            output_padding=[0, 0],
            groups=1,
            output_mask=[False, True, False],
        )


def _seconds(way: Callable[[int], None], rows: int) -> float:
    """The shortest of some runs, behind one that makes what it needs."""
    found = []
    for _ in range(6):
        started = time.perf_counter()
        way(rows)
        found.append(time.perf_counter() - started)
    return min(found[1:])


def _pixels(x: torch.Tensor) -> torch.Tensor:
    """Rows as the pixels of one image, their numbers as its channels."""
    return x.view(1, len(x), 1, -1).permute(0, 3, 1, 2)


def _mlp(rows: int, width: int, units: Sequence[int]) -> list[Shape]:
    return [(rows, *layer) for layer in pairwise((width, *units))]
