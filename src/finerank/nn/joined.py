"""Rows that are known by their parts, so that what reads them first can make use of it.

On a device nothing makes use of it: there rows are tensors from the start, as any compiler expects.

Shape letters: ``B`` rows, ``F`` columns of ids, ``U`` rows of the tables in use, ``D`` embedding
width, ``W`` the width of all parts, ``O`` outputs.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from finerank.nn import jagged, products
from finerank.nn.kernels import library
from finerank.nn.lookups import Repeated, find_repeated, map_repeated
from finerank.nn.tables import gather

_NARROW = 16  # outputs, up to which it takes longer to copy the parts side by side
_WORTH = 2**22  # multiplications in a map, below which looking for equal ids takes as long


class Looked(NamedTuple):
    """Embeddings that are still to be looked up, side by side.

    Attributes:
        vectors: the rows of the tables in use ``(U, D)``.
        places: where among them the embeddings lie, column by column ``(F, B)``, int64.
    """

    vectors: Tensor
    places: Tensor

    @property
    def width(self) -> int:
        """Of all columns."""
        return len(self.places) * self.vectors.shape[1]


class Joined:
    """The parts of each row, side by side: what is computed already, and what is to be looked up.

    All that is to be looked up lies in the same tables.

    Args:
        parts: at least one; ``(B, W_i)`` each.
        halves: the rows that these parts are of, where they are joined of others.
    """

    def __init__(
        self, parts: Iterable[Tensor | Looked], *, halves: "tuple[Joined, ...]" = ()
    ) -> None:
        self.parts = tuple(parts)
        self._looked = [each for each in self.parts if isinstance(each, Looked)]
        self._halves = halves

    def __len__(self) -> int:
        first = self.parts[0]
        return first.places.shape[1] if isinstance(first, Looked) else len(first)

    @property
    def width(self) -> int:
        """Of all parts ``W``."""
        return sum(map(_width, self.parts))

    @cached_property
    def whole(self) -> Tensor:
        """All parts, looked up ``(B, W)``."""
        if self._halves and self._looked:  # else there is nothing that a half has done already
            return _side_by_side([half.whole for half in self._halves])
        found: Iterator[Tensor] = iter(())
        if self._looked:
            vectors = self._looked[0].vectors
            found = iter(gather(vectors, [each.places.T.flatten() for each in self._looked]))
        parts = [
            next(found).view(len(self), each.width) if isinstance(each, Looked) else each
            for each in self.parts
        ]
        return _side_by_side(parts)

    def spread(self, request_of_candidate: Tensor) -> "Joined":
        """Each candidate's row of its request's; see `finerank.nn.jagged.spread`."""
        if jagged.is_one_each(request_of_candidate, len(self)):
            return self
        return Joined(
            each._replace(places=each.places.index_select(1, request_of_candidate))
            if isinstance(each, Looked)
            else each.index_select(0, request_of_candidate)
            for each in self.parts
        )

    def beside(self, other: "Joined") -> "Joined":
        """The parts of both, this one's first; what one has looked up serves the other."""
        return Joined([*self.parts, *other.parts], halves=(self, other))

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``x W^T + b`` ``(B, O)`` of the whole rows.

        Args:
            weight: ``(O, W)``.
            bias: ``(O,)``.
        """
        if not self._looked and len(self.parts) > 1 and len(weight) <= _NARROW:
            return self._added_up(weight, bias)
        worth = len(self) * weight.numel() >= _WORTH and library.serves(weight)
        split = self._split if worth and weight.shape[1] == self.width else None
        if split is None:
            return products.linear(self.whole, weight, bias)
        if split.others is not None:
            other_weight = weight.index_select(1, split.other_weights)
            bias = products.linear(split.others.whole, other_weight, bias)
        return map_repeated(split.repeated, split.vectors, weight, split.first_weight, bias)

    def _added_up(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map of each part, added up: they are never copied side by side."""
        parts = [each for each in self.parts if not isinstance(each, Looked)]
        weights = weight.split([each.shape[1] for each in parts], dim=1)
        output = products.linear(parts[0], weights[0], bias)
        for part, of_part in zip(parts[1:], weights[1:], strict=True):
            output = output + products.linear(part, of_part)
        return output

    @cached_property
    def _split(self) -> "_Split | None":
        """The columns of ids that repeat themselves, and the others; None where there are none."""
        if not self._looked:
            return None
        vectors = self._looked[0].vectors
        repeated = find_repeated(vectors, torch.cat([each.places for each in self._looked]))
        if repeated is None:
            return None
        chosen, dim = set(repeated.columns.tolist()), vectors.shape[1]
        others: list[Tensor | Looked] = []
        first_weight: list[int] = []
        other_weights: list[int] = []
        column = begin = 0
        for part in self.parts:
            width = _width(part)
            if isinstance(part, Looked):
                columns = range(len(part.places))
                starts = {i: begin + i * dim for i in columns}
                left = [i for i in columns if column + i not in chosen]
                first_weight += [starts[i] for i in columns if column + i in chosen]
                other_weights += [starts[i] + k for i in left for k in range(dim)]
                if left:
                    others.append(Looked(vectors, part.places[left]))
                column += len(columns)
            elif width > 0:
                other_weights += range(begin, begin + width)
                others.append(part)
            begin += width
        return _Split(
            vectors,
            repeated,
            torch.tensor(first_weight),
            Joined(others) if others else None,
            torch.tensor(other_weights),
        )


class _Split(NamedTuple):
    """Rows as two parts.

    Attributes:
        vectors: the rows of the tables in use ``(U, D)``.
        repeated: columns of ids that come again and again.
        first_weight: where the weights of each of them begin.
        others: all else; None where there is nothing else.
        other_weights: the numbers of its weights.
    """

    vectors: Tensor
    repeated: Repeated
    first_weight: Tensor
    others: Joined | None
    other_weights: Tensor


Rows: TypeAlias = Tensor | Joined


def whole(x: Rows) -> Tensor:
    """Return rows as a tensor ``(B, W)``."""
    return x.whole if isinstance(x, Joined) else x


def spread(requests: Rows, request_of_candidate: Tensor) -> Rows:
    """Return each candidate's row of its request's; see `finerank.nn.jagged.spread`."""
    if isinstance(requests, Joined):
        return requests.spread(request_of_candidate)
    return jagged.spread(requests, request_of_candidate)


def beside(x: Rows, y: Rows) -> Rows:
    """Return the rows of both side by side; tensors where both are."""
    if 0 in (width_of(x), width_of(y)):
        return y if width_of(x) == 0 else x
    if isinstance(x, Joined) or isinstance(y, Joined):
        return _as_joined(x).beside(_as_joined(y))
    return torch.cat([x, y], dim=1)


def width_of(x: Rows) -> int:
    """Return how many numbers a row has ``W``."""
    return x.width if isinstance(x, Joined) else x.shape[1]


def linear(x: Rows, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x W^T + b`` ``(B, O)``; see `finerank.nn.products.linear`."""
    return x.linear(weight, bias) if isinstance(x, Joined) else products.linear(x, weight, bias)


def _as_joined(x: Rows) -> Joined:
    return x if isinstance(x, Joined) else Joined([x])


def _width(part: Tensor | Looked) -> int:
    return part.width if isinstance(part, Looked) else part.shape[1]


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
