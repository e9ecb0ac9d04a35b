"""A linear layer over a request and its candidates, the request's part computed once.

Shape letters: ``R`` requests, ``B`` candidates, ``Wr`` and ``Wc`` their widths, ``H`` outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from finerank.nn.jagged import spread


def split_linear(
    linear: nn.Linear, request: Tensor, candidate: Tensor, request_of_candidate: Tensor
) -> Tensor:
    r"""Apply a linear layer to the request's columns followed by the candidate's.

    .. math:: W [r; c] + b = (W_r r + b) + W_c c

    The bracket is computed once for each request, and the concatenation is never built.

    Args:
        linear: A layer of ``Wr + Wc`` inputs, the request's first.
        request: ``(R, Wr)``.
        candidate: ``(B, Wc)``.
        request_of_candidate: The request of each candidate ``(B,)``.

    Returns:
        ``(B, H)``.
    """
    if request.shape[1] == 0:
        return functional.linear(candidate, linear.weight, linear.bias)
    if candidate.shape[1] == 0:
        return spread(functional.linear(request, linear.weight, linear.bias), request_of_candidate)
    request_weight, candidate_weight = linear.weight.tensor_split([request.shape[1]], dim=1)
    of_request = functional.linear(request, request_weight, linear.bias)  # (R, H)
    of_candidates = spread(of_request, request_of_candidate)  # (B, H)
    return torch.addmm(of_candidates, candidate, candidate_weight.t())
