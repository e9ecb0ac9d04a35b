r"""A linear map of embeddings that are looked up, of columns with few different ids in a batch.

.. math:: W x = \sum_c W_c\, e_{c, i_c} = \sum_c \big(W_c E_c^\top\big)_{i_c}

The bracket is computed once for each different id of a column, and looked up: an addition for
each output then takes the place of ``D`` multiplications. Backward, the outputs' gradients are
added up by id before they are multiplied. By compiled functions, see ``kernels/lookups.c``.

Shape letters: ``B`` rows, ``F`` columns of ids, ``C`` of them mapped so, ``U`` rows of the tables
in use, ``N`` different ids of the ``C`` columns, ``D`` embedding width, ``W`` the map's inputs,
``O`` its outputs.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finerank.nn.kernels import library
from finerank.nn.kernels.lookups import LookupsOf
from finerank.nn.short import short_dtype

_ROWS_OF_AN_ID = 1.1  # on average, from which it pays
_MOST = 2**14  # ids of all columns together, so that what is looked up stays in a cache
_ROWS_OF_A_PLACE = 8  # of the tables, at most: where scores are computed they stand there whole
_ROWS_OF_A_USED_ONE = 2  # in use, at most: so long it is cheaper not to copy those that are used
_ROWS_OF_AN_ID_IN_SHORT = 8  # where the other way are products of short numbers, for all columns


class Repeated(NamedTuple):
    """Columns whose ids come again and again in a batch.

    Attributes:
        columns: which of the ``F`` they are ``(C,)``.
        rows: their different ids, column by column, as places among the rows in use ``(N,)``; None
            where each column's lie there one after another, and are most of these rows.
        first: where each column's begin, and the end ``(C + 1,)``.
        first_vector: where their vectors begin, among those of ``rows``, or the rows in use
            ``(C,)``.
        places: of each id, among the different ones ``(B, C)``, int32.
    """

    columns: Tensor
    rows: Tensor | None
    first: Tensor
    first_vector: Tensor
    places: Tensor


def find_repeated(vectors: Tensor, places: Tensor) -> Repeated | None:
    """Return the columns with few different ids; None where there are none, or no functions.

    Args:
        vectors: the rows in use, or whole tables ``(U, D)``.
        places: of the ids among them ``(F, B)``, int64.

    Raises:
        IndexError: a place is not among them.
    """
    if not library.serves(vectors) or len(vectors) > _ROWS_OF_A_PLACE * places.numel():
        return None
    short = short_dtype(vectors) is not None
    fewest = _ROWS_OF_AN_ID_IN_SHORT if short else _ROWS_OF_AN_ID
    (columns, rows), places = places.shape, places.contiguous()
    most = int(rows / fewest)
    different = places.new_empty(columns, most)
    counts, numbers = places.new_empty(columns), places.new_empty(rows, columns, dtype=torch.int32)
    in_turn, state, size = torch.empty_like(counts), places.new_empty(1), len(vectors)
    library.call(
        "different", rows, columns, size, most, places, different, counts, numbers, in_turn, state
    )
    if int(state) < 0:
        raise library.not_there(places, size)
    chosen = _fitting(counts)
    if len(chosen) == 0 or (short and len(chosen) < columns):
        return None
    counts = counts[chosen]
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    different = different.index_select(0, chosen)
    if in_turn[chosen].all() and _ROWS_OF_A_USED_ONE * int(first[-1]) >= size:
        first_vector, their_rows = different[:, 0].contiguous(), None
    else:
        used = torch.arange(most) < counts.unsqueeze(1)
        first_vector, their_rows = first[:-1], different[used]
    return Repeated(
        columns=chosen,
        rows=their_rows,
        first=first,
        first_vector=first_vector,
        places=numbers.index_select(1, chosen).add_(first[:-1].to(torch.int32)),
    )


def _fitting(counts: Tensor) -> Tensor:
    """The columns, those with the fewest ids first, whose ids are not too many together."""
    order = counts.argsort(stable=True)
    fewest = counts[order].clamp(min=0)
    return order[(fewest > 0) & (fewest.cumsum(0) <= _MOST)].sort().values


def map_repeated(
    repeated: Repeated, vectors: Tensor, weight: Tensor, first_weight: Tensor, base: Tensor | None
) -> Tensor:
    """Return ``base`` and the columns' part of the map ``(B, O)``.

    Args:
        repeated: the columns.
        vectors: the rows in use ``(U, D)``.
        weight: of the whole map ``(O, W)``.
        first_weight: where each of the columns' weights begin ``(C,)``.
        base: the other inputs' part ``(B, O)``, or a bias ``(O,)``.
    """
    if repeated.rows is not None:
        vectors = vectors.index_select(0, repeated.rows)  # (N, D)
    output: Tensor = _Mapped.apply(vectors, weight, base, repeated, first_weight)  # type: ignore[no-untyped-call]
    return output


class _Mapped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        vectors: Tensor,
        weight: Tensor,
        base: Tensor | None,
        repeated: Repeated,
        first_weight: Tensor,
    ) -> Tensor:
        weight = weight.contiguous()
        ctx.save_for_backward(vectors, weight)
        ctx.repeated, ctx.first_weight = repeated, first_weight
        ctx.by_row = base is not None and base.ndim > 1
        ctx.base_dtype = None if base is None else base.dtype
        output = weight.new_empty(len(repeated.places), len(weight))
        work = _work(repeated, vectors, weight, first_weight)
        base = None if base is None else base.to(weight.dtype).contiguous()
        library.call("lookups_forward", work, base, len(weight) if ctx.by_row else 0, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        vectors, weight = ctx.saved_tensors
        gradient = gradient.to(weight.dtype).contiguous()
        work = _work(ctx.repeated, vectors, weight, ctx.first_weight)
        all_mapped = len(ctx.first_weight) * vectors.shape[1] == weight.shape[1]
        of_weight = torch.empty_like(weight) if all_mapped else torch.zeros_like(weight)
        filled = vectors.shape[1] + -vectors.shape[1] % library.ALIGNED
        of_vectors = vectors.new_empty(work.shares, len(vectors), filled)
        library.call("lookups_backward", work, gradient, of_weight, of_vectors)
        of_base = None
        if ctx.base_dtype is not None:
            of_base = (gradient if ctx.by_row else gradient.sum(dim=0)).to(ctx.base_dtype)
        of_vectors = library.added_up(of_vectors)[:, : vectors.shape[1]]
        return of_vectors, of_weight, of_base, None, None


def _work(repeated: Repeated, vectors: Tensor, weight: Tensor, first_weight: Tensor) -> LookupsOf:
    """The argument of the functions; it points into the tensors."""
    rows, columns = repeated.places.shape
    shares = min(torch.get_num_threads(), -(-len(weight) // library.ALIGNED))
    return library.filled(
        LookupsOf, shares, rows, columns, vectors.shape[1], len(weight), weight.shape[1],
        repeated.places, repeated.first, repeated.first_vector, first_weight,
        len(vectors), vectors, weight,
    )  # fmt: skip
