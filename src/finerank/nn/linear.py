"""Linear layers; one over a request and its candidates, the request's part computed once.

Shape letters: ``R`` requests, ``B`` candidates, ``Wr`` and ``Wc`` their widths, ``H`` outputs.
"""

from torch import Tensor, nn

from finerank.nn.jagged import is_one_each, spread
from finerank.nn.joined import Rows, beside, linear, width_of


class Linear(nn.Linear):
    """As `torch.nn.Linear`, for batches ``(B, I)`` of any size."""

    def forward(self, input: Rows) -> Tensor:  # noqa: A002 - torch's name
        """Return the layer's output ``(B, O)``."""
        return linear(input, self.weight, self.bias)


def split_linear(
    layer: nn.Linear, request: Rows, candidate: Rows, request_of_candidate: Tensor
) -> Tensor:
    r"""Apply a linear layer to the request's columns followed by the candidate's.

    .. math:: W [r; c] + b = (W_r r + b) + W_c c

    The bracket is computed once for each request, and the concatenation is never built; where
    each request has one candidate there is nothing to gain by that, and it is.

    Args:
        layer: Of ``Wr + Wc`` inputs, the request's first.
        request: ``(R, Wr)``.
        candidate: ``(B, Wc)``.
        request_of_candidate: The request of each candidate ``(B,)``.

    Returns:
        ``(B, H)``.
    """
    width = width_of(request)
    if width == 0:
        return linear(candidate, layer.weight, layer.bias)
    if width == layer.in_features:
        return spread(linear(request, layer.weight, layer.bias), request_of_candidate)
    if is_one_each(request_of_candidate, len(request)):
        return linear(beside(request, candidate), layer.weight, layer.bias)
    request_weight, candidate_weight = layer.weight.tensor_split([width], dim=1)
    of_request = linear(request, request_weight, layer.bias)  # (R, H)
    of_candidates = spread(of_request, request_of_candidate)  # (B, H)
    return of_candidates + linear(candidate, candidate_weight)
