"""Embedding tables of one width, kept as one, so that all ids of a batch are looked up at once.

Shapes: ``V`` rows of all tables, ``D`` embedding width, ``M`` ids of a batch, ``U`` different ones.
"""

from collections.abc import Callable, ItemsView, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finerank.nn import allocator, host
from finerank.nn.kernels import library

_FEWEST = 1024  # rows of a share


class RowsInUse(NamedTuple):
    """The rows of the tables that a batch uses, and what stands for them in its step.

    Attributes:
        rows: in the tables ``(U,)``, each once; on a device as the batch names them, ``U = M``.
        vectors: of the rows ``(U, D)``: a leaf.
        first: on a device, where among the rows the one stands that got the gradient of all its
            equals ``(U,)``; else None.
    """

    rows: Tensor
    vectors: Tensor
    first: Tensor | None

    def gradient(self) -> Tensor:
        """That of each of the rows ``(U, D)``, the same for equal rows."""
        assert self.vectors.grad is not None
        gradient = self.vectors.grad
        return gradient if self.first is None else gradient.index_select(0, self.first)


class EmbeddingTables(nn.Module):
    """Several embedding tables, one below the other in one parameter.

    They are saved and loaded under names of their own. An id of a table is looked up as itself
    plus `first_row` of the table.

    Args:
        sizes: table -> how many rows it has.
        dim: the width ``D`` of all.
        std: the standard deviation of the rows to start with, around 0.

    Attributes:
        weight: all rows ``(V, D)``.
        first_row: table -> where it begins.
        sparse: whether only the rows in use get a gradient, so that nothing that a training step
            does grows with ``V``. Off, `weight` has the gradient of any parameter.
        in_use: where sparse, the rows that the last forward used, whose gradient stands in the
            place of that of `weight`.
        catch_up: where sparse, changes the vectors ``(U, D)`` of rows ``(U,)`` in place to what
            they are by now, for an optimiser that puts off the steps of rows that no batch uses.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int, *, std: float) -> None:
        super().__init__()
        ends = list(accumulate(sizes.values(), initial=0))
        self.first_row = dict(zip(sizes, ends, strict=False))
        self._views = dict(zip(sizes, pairwise(ends), strict=True))
        weight = allocator.empty((ends[-1], dim), torch.get_default_dtype())
        self.weight = nn.Parameter(nn.init.normal_(weight, std=std))
        self.sparse = False
        self.in_use: RowsInUse | None = None
        self.catch_up: Callable[[Tensor, Tensor], None] | None = None
        self._last_place = torch.empty(0, dtype=torch.int32)  # (V,), once it is needed

    def __getitem__(self, table: str) -> Tensor:
        """The rows of one table, as a view."""
        first, end = self._views[table]
        return self.weight[first:end]

    def items(self) -> ItemsView[str, Tensor]:
        """Each table's rows, as views."""
        return {table: self[table] for table in self._views}.items()

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors, and the place among them of each row asked for.

        Args:
            rows: ``(M,)``, int64.

        Returns:
            The vectors of the rows in use ``(U, D)`` and a place for each of ``rows`` ``(M,)``;
            unless `sparse`, and where nothing is learned, all rows ``(V, D)`` and ``rows``.
        """
        if not (self.sparse and torch.is_grad_enabled()):
            return self.weight, rows
        self.in_use = None  # makes room: the last step's vectors and gradient are done with
        different, places, first = self._different(rows)
        vectors = self._vectors(different)
        if self.catch_up is not None:
            self.catch_up(different, vectors)
        self.in_use = RowsInUse(different, vectors.requires_grad_(), first)
        return vectors, places

    def _different(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The rows in use ``(U,)``, where among them each row is ``(M,)``, and their `first`.

        Where no compiled function finds them, each row writes its place into a table of all rows,
        and who reads their own back is the one that counts; sorting, as `torch.unique` does, takes
        three times as long. A device would have to be asked how many count: there equal rows all
        stay and share the place of one.
        """
        if host.is_readable(rows) and library.is_there():
            return *self._found(rows), None
        if len(self._last_place) != len(self.weight) or self._last_place.device != rows.device:
            self._last_place = rows.new_empty(len(self.weight), dtype=torch.int32)
        order = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
        self._last_place.scatter_(0, rows, order)  # on a CPU the last one stays, always
        chosen = self._last_place.index_select(0, rows)
        if not host.is_readable(rows):
            places = chosen.long()
            return rows, places, places
        counts = chosen == order
        place = counts.cumsum(0).sub_(1)
        return rows[counts], place.index_select(0, chosen), None

    def _vectors(self, rows: Tensor) -> Tensor:
        """A copy of the vectors of rows ``(U, D)``."""
        weight = self.weight.detach()
        if not library.serves(weight):
            return weight.index_select(0, rows)
        count, dim = len(rows), weight.shape[1]
        shares = library.shares_of(count, fewest=_FEWEST)
        vectors = weight.new_empty(count, dim)
        library.call("gather", shares, count, dim, rows, weight, vectors)
        return vectors

    def _found(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The rows in use and the place of each by a compiled function, in one pass."""
        rows = rows.long().contiguous()
        different, places = torch.empty_like(rows), torch.empty_like(rows)
        count = torch.empty(1, dtype=torch.int64)
        size = len(self.weight)
        library.call("rows_in_use", len(rows), rows, size, different, places, count)
        if (found := int(count)) < 0:
            raise library.not_there(rows, size)
        return different[:found], places

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:  # noqa: ANN401, FBT001 - torch's signature
        super()._save_to_state_dict(destination, prefix, keep_vars)
        whole = destination.pop(f"{prefix}weight")
        for table, (first, end) in self._views.items():
            destination[prefix + table] = whole[first:end]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,  # noqa: ANN401 - torch's signature
        strict: bool,  # noqa: FBT001
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for table, rows in self.items():
            found = state_dict.pop(prefix + table, None)
            if found is None:
                missing_keys.append(prefix + table)
            elif found.shape != rows.shape:
                shapes = f"{tuple(found.shape)}, expected {tuple(rows.shape)}"
                error_msgs.append(f"size mismatch for {prefix}{table}: found {shapes}")
            else:
                with torch.no_grad():
                    rows.copy_(found)
        state_dict[f"{prefix}weight"] = self.weight.detach()  # what it has by now
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def gather(vectors: Tensor, places: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the vectors at each of several lists of places ``(M_i, D)``.

    The gradient is summed in one tensor, over all lists.

    Args:
        vectors: ``(U, D)``.
        places: ``(M_i,)`` each, int64.
    """
    gathered: tuple[Tensor, ...] = _Gather.apply(vectors, *places)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, *places: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.save_for_backward(*places)
        ctx.rows = len(vectors)
        return tuple(vectors.index_select(0, each) for each in places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        total = gradients[0].new_zeros(ctx.rows, gradients[0].shape[1])
        for places, gradient in zip(ctx.saved_tensors, gradients, strict=True):
            total.index_add_(0, places, gradient)
        return total, *(None for _ in gradients)
