"""Sums over the pairs of a candidate and a step of its request's history.

Each function has its gradient in closed form. Vectors of pairs are worked on a part at a time that
stays in the cache, and only what has the attention's width is kept.

Shape letters: ``B`` candidates, ``N`` history steps, ``P`` pairs, ``D`` the candidate's width,
``S`` a step's, ``H`` the attention's first hidden width.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finerank.nn import host
from finerank.nn.jagged import is_one_each, lengths_of, pair_steps, row_of_value, sum_segments
from finerank.nn.products import cut, even, pays, short_dtype

_PART = 2**20  # numbers in the vectors of pairs that are worked on together: 4 MiB
_LONG = 16  # steps from which a matrix for each candidate pays
_FEW = 4  # the share of all pairs for which they are divided: a quarter
_BLOCK = 32  # candidates whose matrices are worked on together


class Pairs(NamedTuple):
    """Which candidate and which step each pair is of; a candidate's pairs lie together.

    Attributes:
        step: ``(P,)``; None where the pairs are the steps, every request having one candidate.
        candidate: ``(P,)``, ascending.
        offsets: where each candidate's pairs begin and end ``(B + 1,)``.
        even: from which candidate on all have as many pairs as the last one, where the pairs are
            the steps; ``B`` on a device, which would have to be asked.
    """

    step: Tensor | None
    candidate: Tensor
    offsets: Tensor
    even: int


def pairs_of(
    offsets: Tensor, request_of_candidate: Tensor, *, num_pairs: int | None = None
) -> Pairs:
    """Pair each candidate with each step of its request's history, in the history's order.

    Args:
        offsets: Where the histories begin and end ``(R + 1,)``.
        request_of_candidate: The request of each candidate ``(B,)``, in any order.
        num_pairs: How many there are ``P``, where it is known; else a device is waited for.
    """
    if is_one_each(request_of_candidate, offsets.shape[0] - 1):
        return Pairs(None, row_of_value(offsets, int(offsets[-1])), offsets, _even_from(offsets))
    step, pair_offsets = pair_steps(offsets, request_of_candidate, num_pairs=num_pairs)
    rows = row_of_value(pair_offsets, step.shape[0])
    return Pairs(step, rows, pair_offsets, len(pair_offsets) - 1)


def _even_from(offsets: Tensor) -> int:
    """The first row from which on all are as long as the last."""
    lengths = lengths_of(offsets)
    others = (lengths != lengths[-1:]).nonzero()
    return int(others[-1]) + 1 if len(others) else 0


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
    step, of_pair, offsets, _ = pairs
    if first == count:
        return _apply(_PairLinear, candidate, values, weight, bias, step, of_pair, offsets, short)
    if first == 0:
        return _apply(_OwnLinear, candidate, values, weight, bias)
    start = int(offsets[first])
    few, long = candidate.split([first, count - first])
    of_few, of_long = values.split([start, len(values) - start])
    few_pairs = None, of_pair[:start], offsets[: first + 1]
    hidden = [
        _apply(_PairLinear, few, of_few, weight, bias, *few_pairs, None),
        _apply(_OwnLinear, long, of_long, weight, bias),
    ]
    return torch.cat(hidden)


def _apply(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    result: Tensor = function.apply(*arguments)
    return result


def _first_long(pairs: Pairs) -> int:
    """The first candidate of those at the end whose histories are of one length, a long one."""
    count = len(pairs.offsets) - 1
    if pairs.even == count:
        return count
    length = int(pairs.offsets[-1] - pairs.offsets[-2])
    enough = (count - pairs.even) * length * _FEW >= len(pairs.candidate)
    return pairs.even if length >= _LONG and enough else count


def weighted_steps(weights: Tensor, values: Tensor, pairs: Pairs) -> Tensor:
    """Return each candidate's sum of its steps, weighted ``(B, S)``.

    Args:
        weights: Of each pair ``(P,)``.
        values: Steps ``(N, S)``.
        pairs: Of the candidates and the steps.
    """
    return _apply(_WeightedSteps, weights, values, *pairs[:3])


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


class _OwnLinear(torch.autograd.Function):
    r"""With a matrix for each candidate: :math:`(W_h + W_p\, diag(c))\, h + W_c c + b`.

    All candidates have as many steps ``T``. To make a matrix takes as long as to cross some steps
    with the candidate, and spares both that and the product :math:`W_h h`.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        candidate: Tensor,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.has_bias = bias is not None
        ctx.save_for_backward(candidate, values, weight)
        matrices = _Matrices(candidate, weight, values.shape[1])
        by_candidate = functional.linear(candidate, weight[:, : candidate.shape[1]], bias)
        by_candidate = by_candidate.unsqueeze(1)  # (B, 1, H)
        steps = values.view(len(candidate), -1, values.shape[1])  # (B, T, S)
        hidden = by_candidate.new_empty(*steps.shape[:2], weight.shape[0])
        for block in matrices.blocks():
            torch.baddbmm(by_candidate[block], steps[block], matrices.of(block), out=hidden[block])
        return hidden.flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        candidate, values, weight = ctx.saved_tensors
        dim = candidate.shape[1]
        matrices = _Matrices(candidate, weight, values.shape[1])
        steps = values.view(len(candidate), -1, values.shape[1])  # (B, T, S)
        gradient = gradient.reshape(*steps.shape[:2], weight.shape[0])  # (B, T, H)
        sums = gradient.sum(dim=1)  # (B, H)
        d_bias = sums.sum(dim=0) if ctx.has_bias else None
        d_candidate = sums @ weight[:, :dim]
        d_steps = gradient.new_empty(steps.shape)
        d_of_step = gradient.new_zeros(matrices.of_step.shape)  # (S, H)
        d_of_product = gradient.new_zeros(matrices.of_product.shape)  # (D, H)
        for block in matrices.blocks():
            torch.bmm(gradient[block], matrices.of(block).mT, out=d_steps[block])
            d_matrices = torch.bmm(steps[block].mT, gradient[block])  # (K, S, H)
            d_of_step += d_matrices.sum(dim=0)
            of_products = d_matrices[:, :dim]
            d_candidate[block] += (of_products * matrices.of_product).sum(dim=2)
            d_of_product += of_products.mul_(matrices.columns[block]).sum(dim=0)
        d_weight = torch.cat([sums.t() @ candidate, d_of_step.t(), d_of_product.t()], dim=1)
        return d_candidate, d_steps.flatten(0, 1), d_weight, d_bias


class _Matrices:
    """Each candidate's matrix ``(S, H)``, made for some of them at a time.

    Attributes:
        of_step: :math:`W_h` ``(S, H)``.
        of_product: :math:`W_p` ``(D, H)``.
        columns: the candidates ``(B, D, 1)``.
    """

    def __init__(self, candidate: Tensor, weight: Tensor, step_dim: int) -> None:
        self.dim = candidate.shape[1]
        _, *parts = weight.tensor_split([self.dim, self.dim + step_dim], 1)
        self.of_step, self.of_product = (part.t().contiguous() for part in parts)
        self.columns = candidate.unsqueeze(2)

    def of(self, block: slice) -> Tensor:
        """Those of some candidates ``(K, S, H)``."""
        crossed, alone = self.of_step.tensor_split([self.dim])
        matrices = torch.addcmul(crossed, self.columns[block], self.of_product)
        if len(alone) == 0:
            return matrices
        return torch.cat([matrices, alone.expand(len(matrices), *alone.shape)], dim=1)

    def blocks(self) -> Iterator[slice]:
        """Some candidates at a time, whose matrices stay in the cache."""
        count = len(self.columns)
        return (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))


class _WeightedSteps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        weights: Tensor,
        values: Tensor,
        step: Tensor | None,
        candidate_of_pair: Tensor,
        offsets: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(weights, values, step, candidate_of_pair, offsets)
        places = torch.arange(len(values), device=values.device) if step is None else step
        return functional.embedding_bag(
            places,
            values,
            offsets,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        weights, values, step, candidate_of_pair, offsets = ctx.saved_tensors
        num_pairs = weights.shape[0]
        places = torch.arange(num_pairs + 1, device=values.device)
        d_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward(  # noqa: SLF001
            gradient, values, places[:-1] if step is None else step, offsets, candidate_of_pair, 0
        )
        d_values = functional.embedding_bag(  # of one each: its weight times a row of the gradient
            candidate_of_pair,
            gradient,
            places,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )
        if step is not None:
            d_values = torch.zeros_like(values).index_add_(0, step, d_values)
        return d_weights, d_values, None, None, None
