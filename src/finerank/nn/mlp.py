"""A stack of fully connected layers.

Shape letters: ``B`` rows (candidates), ``R`` requests, ``W`` input width (``Wr`` of it the
request's, ``Wc`` the candidate's), ``H`` the last hidden width.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from finerank.nn import compiled_linear
from finerank.nn.activations import ActivationName, activation
from finerank.nn.jagged import spread
from finerank.nn.joined import Rows, whole
from finerank.nn.linear import Linear, split_linear
from finerank.nn.normalization import BatchNorm

NormalizationName = Literal["batch", "layer"]


class MLP(nn.Module):
    """Layers of linear, normalisation, activation and dropout, in this order.

    No hidden units: the identity.

    Shape:
        - input: ``(B, W)``.
        - output: ``(B, H)``, with ``H = output_dim``.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_units: Sequence[int],
        *,
        activation: ActivationName = "relu",
        normalization: NormalizationName | None = None,
        dropout: float = 0.0,
    ) -> None:
        """Build the layers.

        Args:
            input_dim: The input's width ``W``.
            hidden_units: The width of each layer.
            activation: The name of every layer's activation.
            normalization: Over the batch or over a layer's neurons, between linear and activation.
            dropout: The share of outputs dropped in training, from 0 up to but not 1.
        """
        super().__init__()
        dims = [input_dim, *hidden_units]
        self.output_dim = dims[-1]
        bias = normalization != "batch"  # batch normalisation would take it off again
        self.linears = nn.ModuleList(Linear(*dim, bias=bias) for dim in pairwise(dims))
        self.finishes = nn.ModuleList(
            _finish(dim, activation, normalization, dropout) for dim in hidden_units
        )

    def forward(self, x: Rows) -> Tensor:
        """Return the last layer's output ``(B, H)``."""
        if not self.linears:
            return whole(x)
        return self.forward_after_first(self.first(x))

    def forward_split(self, request: Rows, candidate: Rows, request_of_candidate: Tensor) -> Tensor:
        """Return the forward of each request's columns followed by its candidate's ``(B, H)``.

        The request's part of the first layer is computed once for each request.

        Args:
            request: ``(R, Wr)``.
            candidate: ``(B, Wc)``, with ``Wr + Wc = W``.
            request_of_candidate: The request of each candidate ``(B,)``.
        """
        if not self.linears:
            of_request = spread(whole(request), request_of_candidate)
            return torch.cat([of_request, whole(candidate)], dim=1)
        return self.forward_after_first(
            split_linear(self.first, request, candidate, request_of_candidate)
        )

    @property
    def first(self) -> nn.Linear:
        """The first layer's linear map, for callers that know how its input falls apart."""
        linear = self.linears[0]
        assert isinstance(linear, nn.Linear)
        return linear

    def activations(self) -> list[nn.Module] | None:
        """Return each layer's activation, where it is all that follows the linear map."""
        finishes = [list(finish.children()) for finish in self.finishes]
        if any(len(finish) != 1 for finish in finishes):
            return None
        return [finish[0] for finish in finishes]

    def forward_after_first(self, x: Tensor) -> Tensor:
        """Return the last layer's output ``(B, H)`` from the first linear map's."""
        return compiled_linear.through(x, self.linears[1:], self.finishes)


def _finish(
    dim: int,
    activation_name: ActivationName,
    normalization: NormalizationName | None,
    dropout: float,
) -> nn.Sequential:
    finish = nn.Sequential()
    if normalization == "batch":
        finish.append(BatchNorm(dim))
    elif normalization == "layer":
        finish.append(nn.LayerNorm(dim))
    finish.append(activation(activation_name, dim))
    if dropout > 0:
        finish.append(nn.Dropout(dropout))
    return finish
