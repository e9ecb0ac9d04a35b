"""Pool each history for each candidate, a step counting as much as it matters to the candidate.

Shape letters: ``B`` candidates, ``R`` requests, ``N`` history steps, ``P`` pairs of a candidate
and a step of its request's history, ``D`` the candidate's width, ``S`` a step's, ``H`` the
attention's first hidden width.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from finerank.nn.activations import ActivationName
from finerank.nn.filled import counting
from finerank.nn.jagged import segment_softmax
from finerank.nn.linear import Linear
from finerank.nn.mlp import MLP
from finerank.nn.pair_linear import pair_linear
from finerank.nn.pair_mlp import attended, serves
from finerank.nn.pairs import Pairs, pairs_of, weighted_steps


class TargetAttention(nn.Module):
    r"""Sum a user's history, each step weighted by its relevance to the candidate.

    .. math:: u = \sum_{t} a(c, h_t)\, h_t

    with :math:`a` an MLP over the candidate, the step, their difference and their product. The
    weights are not normalised, so the length of ``u`` keeps the strength of the interest.

    The MLP's first layer is linear, so it falls apart exactly:

    .. math::
        W_1 c + W_2 h + W_3 (c - h) + W_4 (c \odot h)
        = \underbrace{(W_1 + W_3)}_{W_c} c + \underbrace{(W_2 - W_3)}_{W_h} h
        + \underbrace{W_4}_{W_p} (c \odot h)

    The difference adds no function that :math:`W_c` and :math:`W_h` lack, so these and
    :math:`W_p` are what is learned, side by side in one weight ``(H, D + S + D)``.
    :math:`W_c c` is computed once for each candidate, :math:`W_h h` once for each step, and only
    :math:`W_p (c \odot h)` for each pair.

    A step may be wider than the candidate: its first ``D`` columns are the features that they
    share, in the same order; the others (event type, rating) are the step's own.

    Shape:
        - candidate: ``(B, D)``; history values: ``(N, S)`` with offsets ``(R + 1,)``.
        - output: ``(B, S)``; a row of zeros where the history is empty.

    Source:
        Zhou et al., Deep Interest Network, KDD 2018, arXiv:1706.06978, eq. (3). The difference is
        in the authors' code, not in the paper. The code applies softmax; the paper's equation
        does not, and this block only where asked.
    """

    def __init__(
        self,
        dim: int,
        *,
        step_dim: int | None = None,
        hidden_units: Sequence[int] = (80, 40),
        activation: ActivationName = "dice",
        softmax: bool = False,
    ) -> None:
        """Build the attention's MLP.

        Args:
            dim: The candidate's width ``D``.
            step_dim: A step's width ``S``, at least ``D``; ``D`` where left out.
            hidden_units: The widths of the attention's hidden layers, at least one.
            activation: Their activation.
            softmax: Whether the weights of a history are made to sum to 1.

        Raises:
            ValueError: There is no hidden layer, or a step is narrower than the candidate.
        """
        super().__init__()
        step_dim = dim if step_dim is None else step_dim
        if step_dim < dim:
            raise ValueError(f"expected step_dim of at least dim ({dim}), found {step_dim}")
        if not hidden_units:
            raise ValueError("expected at least one hidden layer in the attention, found none")
        self.dim = dim
        self.output_dim = step_dim
        self.softmax = softmax
        self.mlp = MLP(dim + step_dim + dim, hidden_units, activation=activation)
        # Softmax is blind to a constant.
        self.logit = Linear(self.mlp.output_dim, 1, bias=not softmax)

    def forward(
        self,
        candidate: Tensor,
        values: Tensor,
        offsets: Tensor,
        request_of_candidate: Tensor,
        *,
        num_pairs: int | None = None,
        count: Tensor | None = None,
        spend: bool = False,
    ) -> Tensor:
        """Return each candidate's view of its request's history ``(B, S)``.

        Args:
            candidate: ``(B, D)``.
            values: The steps of all histories ``(N, S)``.
            offsets: Where each request's history begins and ends ``(R + 1,)``.
            request_of_candidate: The request of each candidate ``(B,)``.
            num_pairs: How many pairs there are ``P``, where it is known; else a device is waited
                for.
            count: How many candidates count, see `finerank.nn.filled`; None: all of them.
            spend: Whether the values are nobody else's, and there is one way back only: the
                values are then no longer what they were behind it.
        """
        pairs = pairs_of(offsets, request_of_candidate, num_pairs=num_pairs, count=count)
        if serves(candidate, values, self.mlp, pairs):
            return attended(
                candidate, values, self.mlp, self.logit, pairs, softmax=self.softmax, spend=spend
            )
        return weighted_steps(self._weights(candidate, values, pairs), values, pairs)

    def weights(
        self, candidate: Tensor, values: Tensor, offsets: Tensor, request_of_candidate: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the weight of each pair ``(P,)`` and each candidate's offsets in it ``(B + 1,)``.

        The pairs of a candidate follow the steps of its request's history. The arguments are those
        of `forward`. Without softmax a weight may have any size and sign.
        """
        pairs = pairs_of(offsets, request_of_candidate)
        return self._weights(candidate, values, pairs), pairs.offsets

    def _weights(self, candidate: Tensor, values: Tensor, pairs: Pairs) -> Tensor:
        first = self.mlp.first
        hidden = pair_linear(candidate, values, first.weight, first.bias, pairs)  # (P, H)
        with counting(pairs.that_count):
            hidden = self.mlp.forward_after_first(hidden)
        logits = self.logit(hidden).squeeze(1)  # (P,)
        logits = logits.to(values.dtype)  # under autocast they are shorter
        return segment_softmax(logits, pairs.offsets) if self.softmax else logits
