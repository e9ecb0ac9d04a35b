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
from finerank.nn.jagged import sum_segments
from finerank.nn.onednn import cut
from finerank.nn.pairs import Pairs
from finerank.nn.products import even, pays, product, product_of_rows
from finerank.nn.short import short_dtype

_PART = 2**20  # numbers in the vectors of pairs that are worked on together: 4 MiB


class Columns:
    """The first layer's weights: for the candidate, the step, and what is read of a pair.

    That is the product of candidate and step, and where each step has one pair (`joint`) the step
    before it, so that there is no product a step.
    """

    def __init__(self, weight: Tensor, dim: int, *, joint: bool) -> None:
        of_candidate, of_step, of_product = weight.tensor_split([dim, weight.shape[1] - dim], 1)
        self.of_candidate = of_candidate.contiguous()  # (H, D)
        self.of_step = None if joint else of_step.contiguous()  # (H, S)
        self.of_pair = weight[:, dim:].contiguous() if joint else of_product.contiguous()


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
    hidden: Tensor = _PairLinear.apply(  # type: ignore[no-untyped-call]
        candidate, values, weight, bias, pairs.step, pairs.candidate, pairs.offsets, short
    )
    return hidden


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
    if not host.is_readable(offsets):  # a device has no use for parts, a compiler none for sizes
        yield _Part(slice(None), slice(None), offsets)
        return
    size, num_candidates = max(1, _PART // max(1, width)), offsets.shape[0] - 1
    if num_pairs <= size:
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


class _Vectors:
    """What a product reads of each pair: the product of candidate and step ``(P, D)``.

    Before it the step itself where each step has one pair: ``(P, S + D)``.
    """

    def __init__(
        self, candidate: Tensor, values: Tensor, step: Tensor | None, candidate_of_pair: Tensor
    ) -> None:
        self.candidate, self.values, self.step = candidate, values, step
        self.candidate_of_pair = candidate_of_pair
        self.start = values.shape[1] if step is None else 0  # of the product
        self.width = self.start + candidate.shape[1]

    def of(self, pairs: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Those of a part, and its candidates and steps, as wide as each other ``(P, D)``."""
        candidates = self.candidate.index_select(0, self.candidate_of_pair[pairs])
        shared = self.values[:, : self.candidate.shape[1]]
        if self.step is not None:
            steps = shared.index_select(0, self.step[pairs])
            return candidates * steps, candidates, steps
        vectors = candidates.new_empty(len(candidates), self.width)
        vectors[:, : self.start].copy_(self.values[pairs])
        torch.mul(candidates, shared[pairs], out=vectors[:, self.start :])
        return vectors, candidates, shared[pairs]


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
        vectors = _Vectors(candidate, values, step, candidate_of_pair)
        columns = Columns(weight, candidate.shape[1], joint=step is None)
        by_candidate = product(candidate, columns.of_candidate).to(dtype)  # (B, H)
        if bias is not None:
            by_candidate += bias
        by_step = None  # (N, H)
        if columns.of_step is not None:
            by_step = product(values, columns.of_step).to(dtype)
        hidden = by_candidate.new_empty(len(candidate_of_pair), len(weight))  # (P, H)
        for part in _parts(offsets, len(hidden), vectors.width):
            of_part = by_candidate.index_select(0, candidate_of_pair[part.pairs])
            if step is not None and by_step is not None:
                of_part += by_step.index_select(0, step[part.pairs])
            torch.add(
                of_part, product(vectors.of(part.pairs)[0], columns.of_pair), out=hidden[part.pairs]
            )
        return cut(hidden, num_pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        candidate, values, weight, step, candidate_of_pair, offsets = ctx.saved_tensors
        dim, dtype = candidate.shape[1], gradient.dtype
        vectors = _Vectors(candidate, values, step, candidate_of_pair)
        columns = Columns(weight, dim, joint=step is None)
        num_candidates, num_steps = ctx.rows
        gradient = gradient.contiguous()
        sums = sum_segments(gradient, offsets)  # (B, H)
        d_bias = sums.sum(dim=0) if ctx.has_bias else None
        by_candidate, by_pair = even(sums, ctx.short), even(gradient, ctx.short)  # (P, H)
        d_candidate = product(by_candidate, columns.of_candidate.t()).to(dtype)  # (B, D)
        d_of_candidate = product_of_rows(by_candidate, candidate)  # (H, D)
        if columns.of_step is None:
            d_of_step = gradient.new_empty(len(weight), 0)
            d_values = gradient.new_empty(values.shape)  # (N, S)
        else:
            by_step = gradient.new_zeros(num_steps, gradient.shape[1])
            by_step.index_add_(0, step[: len(gradient)], gradient)
            by_step = even(by_step, ctx.short)  # (N, H)
            d_of_step = product_of_rows(by_step, values)  # (H, S)
            d_values = product(by_step, columns.of_step.t()).to(dtype)  # (N, S)
        d_of_pair = gradient.new_zeros(columns.of_pair.shape)
        for part in _parts(offsets, len(by_pair), vectors.width):
            of_part, candidates, steps = vectors.of(part.pairs)
            of_pairs = by_pair[part.pairs]
            d_vectors = product(of_pairs, columns.of_pair.t())
            d_of_pair += product_of_rows(of_pairs, of_part)
            d_crossed = d_vectors[:, vectors.start :]
            if step is None:
                of_steps, own = d_values[part.pairs].tensor_split([dim], dim=1)
                torch.addcmul(d_vectors[:, :dim], candidates, d_crossed, out=of_steps)
                own.copy_(d_vectors[:, dim : vectors.start])
            else:
                d_steps = (candidates * d_crossed).to(dtype)
                d_values[:, :dim].index_add_(0, step[part.pairs], d_steps)
            d_candidates = torch.mul(d_crossed, steps, out=candidates)
            d_candidate[part.candidates] += sum_segments(d_candidates, part.ends)
        d_weight = torch.cat([d_of_candidate.to(dtype), d_of_step.to(dtype), d_of_pair], dim=1)
        d_candidate, d_values = cut(d_candidate, num_candidates), cut(d_values, num_steps)
        return d_candidate, d_values, d_weight, d_bias, *[None] * 4
