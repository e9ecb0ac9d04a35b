"""Target attention by compiled functions, with its gradient in closed form.

Of each layer of the MLP over pairs only its linear map's output is kept. See ``kernels/pairs.c``.

Shape letters: ``B`` candidates, ``N`` history steps, ``P`` pairs, ``D`` the candidate's width,
``S`` a step's, ``I`` and ``O`` a layer's inputs and outputs, ``W`` its outputs filled up to a
multiple of 16, ``K`` shares of the pairs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finerank.nn import host
from finerank.nn.activations import Dice
from finerank.nn.jagged import segment_softmax, sum_segments
from finerank.nn.kernels import library
from finerank.nn.kernels.pairs import PairsOf, Upstream
from finerank.nn.mlp import MLP
from finerank.nn.normalization import BatchNorm
from finerank.nn.pair_layers import Gate, filled, gate_of, gradients_of, layers_of, slopes_of
from finerank.nn.pair_linear import Columns
from finerank.nn.pairs import Pairs
from finerank.nn.products import product, product_of_rows

_FEWEST = 512  # pairs of a share


def serves(candidate: Tensor, values: Tensor, mlp: MLP, pairs: Pairs) -> bool:
    """Whether there are compiled functions for this MLP, these numbers and this machine."""
    if not host.is_readable(values) or not library.is_there():
        return False
    if not all(x.dtype == torch.float32 for x in (candidate, values, mlp.first.weight)):
        return False
    if len(pairs.candidate) <= 1 or candidate.shape[1] == 0 or not _is_compiled(mlp):
        return False
    return pairs.step is None or bool((_first_steps(pairs).diff() >= 0).all())


def _is_compiled(mlp: MLP) -> bool:
    """Whether there are functions for all activations, in their present mode."""
    activations = mlp.activations()
    if activations is None or not all(
        isinstance(x, Dice | nn.PReLU | nn.ReLU) for x in activations
    ):
        return False
    # There is none for a gradient that doesn't flow through the statistics.
    by_batch = all(x.training for x in activations if isinstance(x, Dice))
    return by_batch or not torch.is_grad_enabled()


def attended(
    candidate: Tensor,
    values: Tensor,
    mlp: MLP,
    logit: nn.Linear,
    pairs: Pairs,
    *,
    softmax: bool,
    spend: bool = False,
) -> Tensor:
    """Return each candidate's sum of its steps, weighted by what the MLP says of them ``(B, S)``.

    Args:
        candidate: ``(B, D)``.
        values: Steps ``(N, S)``; their product with the candidate is of their first ``D`` columns.
        mlp: Its first layer's weight is ``(O, D + S + D)``, as in `pair_linear`.
        logit: From its last layer, of one output.
        pairs: Of the candidates and the steps.
        softmax: Whether the weights of a candidate are made to sum to 1.
        spend: Whether the values are nobody else's, and there is one way back only: it gives up
            what it has used, and the gradient of the values takes their memory where it can.
    """
    activations = mlp.activations()
    assert activations is not None
    norms = [each.normalization if isinstance(each, Dice) else None for each in activations]
    learned = [
        each
        for linear, activation in zip(mlp.linears, activations, strict=True)
        for each in (linear.weight, linear.bias, slopes_of(activation))
    ]
    for norm in norms:
        if norm is not None and norm.training:
            norm.count_batch()
    with torch.autocast("cpu", enabled=False):
        sums: Tensor = _Attended.apply(  # type: ignore[no-untyped-call]
            candidate,
            values,
            pairs,
            norms,
            softmax,
            spend,
            *learned,
            logit.weight,
            logit.bias,
            None,
        )
    return sums


def _first_steps(pairs: Pairs) -> Tensor:
    """The step of each candidate's first pair ``(B,)``; of those without, some number between."""
    starts = pairs.offsets[:-1]
    if pairs.step is None:
        return starts
    return pairs.step.index_select(0, starts.clamp(max=len(pairs.step) - 1))


class _Work(NamedTuple):
    """The pairs, as the functions take them, divided into shares.

    Attributes:
        pairs: as an argument; it points into the tensors.
        counts: pairs of each share ``(K,)``.
        tensors: which must live as long.
    """

    pairs: PairsOf
    counts: Tensor
    tensors: tuple[Tensor, ...]

    def sums(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Zeros for what each share sums ``(K, ...)``."""
        return torch.zeros(len(self.counts), *shape, dtype=dtype)


def _work_of(candidate: Tensor, values: Tensor, pairs: Pairs) -> _Work:
    """Divide the pairs; candidates that share their steps stay together."""
    rows, offsets = len(pairs.candidate), pairs.offsets.long()
    first_steps = _first_steps(pairs).long()
    shares = library.shares_of(rows, fewest=_FEWEST)
    cuts = torch.arange(1, shares) * rows // shares  # pairs
    cuts = torch.searchsorted(offsets, cuts, right=True).sub_(1)  # candidates
    if pairs.step is not None:
        cuts = torch.searchsorted(first_steps, first_steps[cuts])
    bounds = functional.pad(cuts, (1, 1))
    bounds[-1] = len(candidate)
    tensors = (bounds, offsets, first_steps, candidate, values)
    argument = PairsOf(
        shares,
        *(library.address(each) for each in tensors),
        candidate.shape[1],
        values.shape[1],
        int(pairs.step is None),
    )
    return _Work(argument, offsets.index_select(0, bounds).diff(), tensors)


class _Attended(torch.autograd.Function):
    """Layer by layer, as Dice's statistics are of all rows; a gradient's way back likewise."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        candidate: Tensor,
        values: Tensor,
        pairs: Pairs,
        norms: Sequence[BatchNorm | None],
        softmax: bool,  # noqa: FBT001
        spend: bool,  # noqa: FBT001
        *learned: Tensor | None,
    ) -> Tensor:
        candidate, values = candidate.contiguous(), values.contiguous()
        work, rows = _work_of(candidate, values, pairs), len(pairs.candidate)
        *layers, last = layers_of(learned)
        gates: list[Gate] = []
        outputs: list[Tensor] = []  # (P, W) of each layer's linear map
        for layer, norm in zip(layers, norms, strict=True):
            output = values.new_empty(rows, layer.width)
            of_batch = norm is not None and norm.training
            statistics = work.sums(2, layer.width) if of_batch else None
            if not outputs:
                columns = Columns(layer.weight, candidate.shape[1], joint=pairs.step is None)
                by_candidate = product(candidate, columns.of_candidate)  # (B, O)
                if layer.bias is not None:
                    by_candidate += layer.bias
                by_candidate, by_step = filled(by_candidate), None
                if columns.of_step is not None:
                    by_step = filled(product(values, columns.of_step))  # (N, W)
                library.call(
                    "first", work.pairs, by_candidate, by_step, columns.of_pair, layer.outputs,
                    layer.width, output, statistics,
                )  # fmt: skip
            else:
                library.call(
                    "next", work.pairs, gates[-1].argument(), outputs[-1], layer.inputs,
                    outputs[-1].shape[1], layer.weight, layer.filled_bias(), layer.outputs,
                    layer.width, output, statistics,
                )  # fmt: skip
            gates.append(gate_of(layer, norm, statistics, work.counts))
            outputs.append(output)
        weights = values.new_empty(rows)
        library.call(
            "last", work.pairs, gates[-1].argument(), outputs[-1], outputs[-1].shape[1],
            filled(last.weight[0]), last.filled_bias(), weights,
        )  # fmt: skip
        if softmax:
            weights = segment_softmax(weights, pairs.offsets)
        sums = values.new_empty(len(candidate), values.shape[1])
        library.call("sum", work.pairs, weights, sums)
        ctx.work, ctx.gates, ctx.pairs, ctx.softmax = work, gates, pairs, softmax
        ctx.outputs, ctx.spend = outputs, spend
        ctx.save_for_backward(candidate, values, weights, *learned)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sums: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        with torch.autocast("cpu", enabled=False):
            return _gradients(ctx, of_sums)


def _gradients(ctx: Any, of_sums: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    """Of all that `_Attended` is applied to."""
    gates, depth, joint = ctx.gates, len(ctx.gates), ctx.pairs.step is None
    candidate, values, weights, *learned = ctx.saved_tensors
    work, outputs = _taken(ctx)
    *layers, last = layers_of(learned)
    of_sums, rows = of_sums.contiguous(), len(weights)
    gradient = torch.empty_like(weights)  # of each pair's weight, then of its logit (P,)
    library.call("sum_gradient", work.pairs, of_sums, gradient)
    if ctx.softmax:
        gradient = _softmax_gradient(weights, gradient, ctx.pairs)
    last_weight = filled(last.weight[0])
    sums = work.sums(4, layers[-1].width)
    library.call(
        "last_gradient", work.pairs, gates[-1].argument(), outputs[-1], layers[-1].width,
        last_weight, gradient, sums,
    )  # fmt: skip
    of_slopes, *of_normal, of_weight = library.added_up(sums)
    found: list[Tensor | None] = [  # from the last layer to the first
        None,
        None if last.bias is None else gradient.sum().view(1),
        of_weight[: last.inputs].unsqueeze(0).to(gradient.dtype),
    ]
    upstream = Upstream(library.address(gradient), library.address(last_weight), None)
    held: list[Tensor] = []  # which upstream points into
    for place in range(depth - 1, 0, -1):
        layer, inputs = layers[place], outputs[place - 1]
        gate = gates[place].with_sums(*of_normal, rows)
        of_weights = work.sums(layer.inputs, layer.width, dtype=gradient.dtype)
        of_bias = work.sums(layer.width)
        sums, of_inputs = work.sums(3, inputs.shape[1]), torch.empty_like(inputs)
        library.call(
            "next_gradient", work.pairs, gate.argument(), gates[place - 1].argument(),
            upstream, outputs.pop(), inputs, layer.weight, layer.inputs, inputs.shape[1],
            layer.outputs, layer.width, of_weights, of_inputs, of_bias, sums,
        )  # fmt: skip
        of_bias, of_weights = map(library.added_up, (of_bias, of_weights))
        found += gradients_of(layer, of_slopes, of_bias, of_weights.t())
        of_slopes, *of_normal = library.added_up(sums)
        upstream = Upstream(None, None, library.address(of_inputs))
        held.append(of_inputs)
    layer, dim = layers[0], candidate.shape[1]
    columns = Columns(layer.weight, dim, joint=joint)
    gate = gates[0].with_sums(*of_normal, rows)
    of_pair = work.sums(columns.of_pair.shape[1], layer.width, dtype=gradient.dtype)
    by_candidate = gradient.new_zeros(len(candidate), layer.width)
    by_step = None if joint else gradient.new_zeros(len(values), layer.width)
    of_candidate = torch.zeros_like(candidate)
    of_values = _room_for_gradient(values, joint=joint, spend=ctx.spend)
    library.call(
        "first_gradient", work.pairs, gate.argument(), upstream, outputs[0], columns.of_pair,
        layer.outputs, layer.width, weights, of_sums, of_pair, by_candidate, by_step,
        of_candidate, of_values,
    )  # fmt: skip
    by_candidate = by_candidate[:, : layer.outputs].contiguous()
    of_candidate += product(by_candidate, columns.of_candidate.t())
    of_weight = [product_of_rows(by_candidate, candidate)]
    if by_step is not None and columns.of_step is not None:
        by_step = by_step[:, : layer.outputs].contiguous()
        of_values += product(by_step, columns.of_step.t())
        of_weight.append(product_of_rows(by_step, values))
    of_weight.append(library.added_up(of_pair)[:, : layer.outputs].t())
    found += gradients_of(layer, of_slopes, by_candidate.sum(dim=0), torch.cat(of_weight, dim=1))
    return of_candidate, of_values, None, None, None, None, *reversed(found)


def _taken(ctx: Any) -> tuple[_Work, list[Tensor]]:  # noqa: ANN401
    """The pairs and the layers' outputs; where they are spent, nobody else holds them any more."""
    work, outputs = ctx.work, ctx.outputs
    if not ctx.spend:
        return work, list(outputs)
    if outputs is None:
        raise RuntimeError("expected one way back through values that are spent, found another")
    ctx.work, ctx.outputs = None, None
    return work, outputs


def _room_for_gradient(values: Tensor, *, joint: bool, spend: bool) -> Tensor:
    """That of the values: zeros to add to, or where each step has one pair what is written once."""
    if not joint:
        return torch.zeros_like(values)
    return values.detach() if spend else torch.empty_like(values)


def _softmax_gradient(weights: Tensor, gradient: Tensor, pairs: Pairs) -> Tensor:
    """The gradient of the logits ``(P,)`` from that of their softmax, within each candidate."""
    along = sum_segments((weights * gradient).unsqueeze(1), pairs.offsets).squeeze(1)  # (B,)
    return weights * (gradient - along.index_select(0, pairs.candidate))
