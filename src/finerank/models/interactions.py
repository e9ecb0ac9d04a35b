"""Ways to join what is known of a request and of a candidate into one vector.

Shapes: ``R`` requests, ``B`` candidates, ``W`` widths.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from finerank.nn import host
from finerank.nn.activations import ActivationName
from finerank.nn.cross import CrossNetwork, CrossNetworkV2
from finerank.nn.jagged import is_one_each
from finerank.nn.joined import Joined, Rows, beside, spread, whole
from finerank.nn.mlp import MLP, NormalizationName


class Interaction(nn.Module):
    """Joins the vectors of requests and candidates.

    Attributes:
        output_dim: the width of what it gives.
    """

    output_dim: int

    def forward(self, request: Rows, candidate: Rows, request_of_candidate: Tensor) -> Rows:
        """Return one vector a candidate ``(B, W)``.

        Args:
            request: user, context and what was pooled once a request ``(R, Wr)``.
            candidate: the item and what was pooled for it ``(B, Wc)``.
            request_of_candidate: ``(B,)``.
        """
        raise NotImplementedError


def side_by_side(request: Rows, candidate: Rows, request_of_candidate: Tensor) -> Rows:
    """Each candidate's request and itself ``(B, Wr + Wc)``."""
    return beside(spread(request, request_of_candidate), candidate)


class Concatenation(Interaction):
    """Nothing but both side by side; what follows does the work."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.output_dim = dim

    def forward(self, request: Rows, candidate: Rows, request_of_candidate: Tensor) -> Rows:
        """Return both side by side ``(B, W)``."""
        return side_by_side(request, candidate, request_of_candidate)


class Nothing(Interaction):
    """No vector at all; the model is its shortcuts and a bias."""

    output_dim = 0

    def forward(self, request: Rows, candidate: Rows, request_of_candidate: Tensor) -> Rows:  # noqa: ARG002
        """Return ``(B, 0)``."""
        return whole(candidate)[:, :0]


class Deep(Interaction):
    """An MLP over both; the request's part of its first layer is computed once a request."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.mlp = mlp
        self.output_dim = mlp.output_dim

    def forward(self, request: Rows, candidate: Rows, request_of_candidate: Tensor) -> Rows:
        """Return the last layer's output ``(B, W)``."""
        return self.mlp.forward_split(request, candidate, request_of_candidate)


def deep(
    hidden_units: Sequence[int],
    *,
    activation: ActivationName,
    normalization: NormalizationName | None,
    dropout: float,
) -> Callable[[int, int], Deep]:
    """What builds a `Deep` from the request's and the candidate's width."""

    def build(request_dim: int, candidate_dim: int) -> Deep:
        return Deep(
            MLP(
                request_dim + candidate_dim,
                hidden_units,
                activation=activation,
                normalization=normalization,
                dropout=dropout,
            )
        )

    return build


class CrossAndDeep(Interaction):
    """A cross network and an MLP on the same input, both outputs side by side; or one on the other.

    Args:
        cross: the cross network.
        deep: the MLP, over the same input; over the cross network's output where stacked.
        stacked: whether the MLP follows the cross network rather than standing beside it.
    """

    def __init__(self, cross: CrossNetwork | CrossNetworkV2, deep: MLP, *, stacked: bool) -> None:
        super().__init__()
        self.cross, self.deep, self.stacked = cross, deep, stacked
        self.output_dim = deep.output_dim + (0 if stacked else cross.output_dim)

    def forward(self, request: Rows, candidate: Rows, request_of_candidate: Tensor) -> Rows:
        """Return ``(B, W)``."""
        both = side_by_side(request, candidate, request_of_candidate)
        crossed: Tensor = self.cross(whole(both))
        if self.stacked:
            return torch.as_tensor(self.deep(crossed))
        if is_one_each(request_of_candidate, len(request)):
            deep = self.deep(both)  # which are side by side by now
        else:
            deep = self.deep.forward_split(request, candidate, request_of_candidate)
        return Joined([crossed, deep]) if host.is_readable(deep) else beside(crossed, deep)
