"""The first layer of target attention over pairs, linear in candidate, step and their product.

Vectors of pairs are worked on a part at a time that stays in the cache, and only what has the
attention's width is kept. The gradient is in closed form.

Shape letters: ``B`` candidates, ``N`` history steps, ``P`` pairs, ``D`` the candidate's width,
``S`` a step's, ``H`` the attention's first hidden width.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finerank.nn import host
from finerank.nn.jagged import lengths_of, sum_segments
from finerank.nn.long_pairs import long_pair_linear
from finerank.nn.pairs import Pairs
from finerank.nn.products import cut, even, pays, short_dtype

_PART = 2**20  # numbers in the vectors of pairs that are worked on together: 4 MiB
_LONG = 16  # steps from which a matrix for each candidate pays
_FEWEST = 1 / 4  # of all pairs, for which they are divided


def pair_linear(
    candidate: Tensor, values: Tensor, weight: Tensor, bias: Tensor | None, pairs: Pairs
) -> Tensor:
    r"""Return :math:`W_c c + W_h h + W_p (c \odot h) + b` of each pair ``(P, H)``.

    Args:
        candidate: ``(B, D)``.
        values: Steps ``(N, S)``; the product is with their first ``D`` columns.
        weight: The three side by side ``(H, D + S + D)``.
        bias: ``(H,)``.
        pairs: Of the candidates and the steps.
    """
    device, short = values.device.type, short_dtype(values)
    if short is not None:  # on a CPU the products alone are short
        if not pays(weight.shape[0], candidate.shape[1]):
            short = None
        with torch.autocast(device, enabled=False):
            return _pair_linear(candidate, values, weight, bias, pairs, short)
    if torch.is_autocast_enabled(device):  # what autocast does to a product's inputs
        dtype = torch.get_autocast_dtype(device)
        candidate, values, weight = candidate.to(dtype), values.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return _pair_linear(candidate, values, weight, bias, pairs, None)


def _pair_linear(
    candidate: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pairs: Pairs,
    short: torch.dtype | None,
) -> Tensor:
    """Where histories at the end are long and of one length, by a matrix for each candidate."""
    count = len(candidate)
    first = _first_long(pairs) if short is None else count  # no faster where products are short
    if first == count:
        return _any_pair_linear(candidate, values, weight, bias, pairs, short)
    if first == 0:
        return long_pair_linear(candidate, values, weight, bias)
    start = int(pairs.offsets[first])
    few, long = candidate.split([first, count - first])
    of_few, of_long = values.split([start, len(values) - start])
    few_pairs = Pairs(None, pairs.candidate[:start], pairs.offsets[: first + 1])
    return torch.cat(
        [
            _any_pair_linear(few, of_few, weight, bias, few_pairs, None),
            long_pair_linear(long, of_long, weight, bias),
        ]
    )


def _any_pair_linear(
    candidate: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pairs: Pairs,
    short: torch.dtype | None,
) -> Tensor:
    hidden: Tensor = _PairLinear.apply(  # type: ignore[no-untyped-call]
        candidate, values, weight, bias, *pairs, short
    )
    return hidden


def _first_long(pairs: Pairs) -> int:
    """The first candidate of those at the end whose histories are of one length, a long one."""
    count = len(pairs.offsets) - 1
    if pairs.step is not None or count == 0:  # a device, which would have to be asked, has steps
        return count
    lengths = lengths_of(pairs.offsets)  # (B,)
    if (length := int(lengths[-1])) < _LONG:
        return count
    others = (lengths != length).nonzero()
    first = int(others[-1]) + 1 if len(others) else 0
    enough = (count - first) * length >= _FEWEST * len(pairs.candidate)
    return first if enough else count


class _Part(NamedTuple):
    """Some pairs, and the candidates that they are of.

    Attributes:
        pairs: which.
        candidates: theirs; the first and the last may have pairs elsewhere, too.
        ends: where the pairs of each of them begin and end, within the part.
    """

    pairs: slice
    candidates: slice
    ends: Tensor


def _parts(offsets: Tensor, num_pairs: int, width: int) -> Iterator[_Part]:
    """Cut the pairs into parts whose vectors of this width stay in the cache."""
    size, num_candidates = max(1, _PART // max(1, width)), offsets.shape[0] - 1
    if num_pairs <= size or not host.is_readable(offsets):  # a device has no use for parts
        yield _Part(slice(0, num_pairs), slice(0, num_candidates), offsets)
        return
    cuts = torch.arange(size, num_pairs, size)
    firsts = torch.searchsorted(offsets, cuts, right=True).sub_(1).tolist()
    ends = torch.searchsorted(offsets, cuts).clamp_(max=num_candidates).tolist()
    bounds = [0, *cuts.tolist(), num_pairs]
    candidates = zip([0, *firsts], [*ends, num_candidates], strict=True)
    for (start, end), (first, after) in zip(pairwise(bounds), candidates, strict=True):
        of_part = offsets[first : after + 1].clamp(start, end).sub_(start)
        yield _Part(slice(start, end), slice(first, after), of_part)


def _steps_of(values: Tensor, step: Tensor | None, pairs: slice) -> Tensor:
    """The step of each pair of a part."""
    return values[pairs] if step is None else values.index_select(0, step[pairs])


def _add_product(out: Tensor, x: Tensor, y: Tensor) -> None:
    """Add a matrix product to what may be of a longer type."""
    if out.dtype == x.dtype:
        out.addmm_(x, y)
    else:
        out += x @ y


class _PairLinear(torch.autograd.Function):
    """Where products are short, all that they read has zeros behind it; sums stay as they were."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        candidate: Tensor,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        step: Tensor | None,
        candidate_of_pair: Tensor,
        offsets: Tensor,
        short: torch.dtype | None,
    ) -> Tensor:
        ctx.short, ctx.has_bias, dtype = short, bias is not None, weight.dtype
        ctx.rows, num_pairs = (len(candidate), len(values)), len(candidate_of_pair)
        candidate, values, candidate_of_pair = (
            even(x, short) for x in (candidate, values, candidate_of_pair)
        )
        step = None if step is None else even(step, short)
        weight = weight if short is None else weight.to(short)
        ctx.save_for_backward(candidate, values, weight, step, candidate_of_pair, offsets)
        dim = candidate.shape[1]
        of_candidate, of_step, of_product = weight.tensor_split([dim, dim + values.shape[1]], 1)
        by_candidate = (candidate @ of_candidate.t()).to(dtype)  # (B, H)
        if bias is not None:
            by_candidate += bias
        hidden = by_candidate.index_select(0, candidate_of_pair)  # (P, H)
        if step is None:
            _add_product(hidden, values, of_step.t())
        else:
            hidden += (values @ of_step.t()).index_select(0, step)
        for part in _parts(offsets, len(hidden), dim):
            crossed = candidate.index_select(0, candidate_of_pair[part.pairs])
            crossed.mul_(_steps_of(values[:, :dim], step, part.pairs))
            _add_product(hidden[part.pairs], crossed, of_product.t())
        return cut(hidden, num_pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        candidate, values, weight, step, candidate_of_pair, offsets = ctx.saved_tensors
        dim, dtype = candidate.shape[1], gradient.dtype
        of_candidate, of_step, of_product = weight.tensor_split([dim, dim + values.shape[1]], 1)
        num_candidates, num_steps = ctx.rows
        gradient = gradient.contiguous()
        sums = sum_segments(gradient, offsets)  # (B, H)
        d_bias = sums.sum(dim=0) if ctx.has_bias else None
        by_candidate, by_pair = even(sums, ctx.short), even(gradient, ctx.short)  # (P, H)
        by_step = by_pair  # (N, H)
        if step is not None:
            by_step = gradient.new_zeros(num_steps, gradient.shape[1])
            by_step.index_add_(0, step[: len(gradient)], gradient)
            by_step = even(by_step, ctx.short)
        d_candidate = (by_candidate @ of_candidate).to(dtype)  # (B, D)
        d_values = (by_step @ of_step).to(dtype)  # (N, S)
        d_of_product = gradient.new_zeros(of_product.shape)  # (H, D)
        for part in _parts(offsets, len(by_pair), dim):
            of_candidates = candidate.index_select(0, candidate_of_pair[part.pairs])
            of_steps = _steps_of(values[:, :dim], step, part.pairs)
            d_crossed = by_pair[part.pairs] @ of_product
            if step is None:
                d_values[part.pairs, :dim].addcmul_(of_candidates, d_crossed)
            else:
                d_steps = (of_candidates * d_crossed).to(dtype)
                d_values[:, :dim].index_add_(0, step[part.pairs], d_steps)
            _add_product(d_of_product, by_pair[part.pairs].t(), of_candidates.mul_(of_steps))
            d_candidate[part.candidates] += sum_segments(d_crossed.mul_(of_steps), part.ends)
        d_weight = torch.cat([by_candidate.t() @ candidate, by_step.t() @ values], dim=1)
        d_weight = torch.cat([d_weight.to(dtype), d_of_product], dim=1)
        d_candidate, d_values = cut(d_candidate, num_candidates), cut(d_values, num_steps)
        return d_candidate, d_values, d_weight, d_bias, *[None] * 4
