"""Pool each history into one vector, all steps alike.

Shape letters: ``N`` history steps, ``R`` requests, ``D`` width.
"""

from torch import Tensor, nn

from finerank.nn.jagged import lengths_of, segment_sum


class SumPooling(nn.Module):
    """Sum each history's steps.

    Shape:
        - values: ``(N, D)`` with offsets ``(R + 1,)``.
        - output: ``(R, D)``; a row of zeros where the history is empty.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.output_dim = dim

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Return the sums ``(R, D)``."""
        return segment_sum(values, offsets)


class MeanPooling(nn.Module):
    """Average each history's steps.

    Shape:
        - values: ``(N, D)`` with offsets ``(R + 1,)``.
        - output: ``(R, D)``; a row of zeros where the history is empty.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.output_dim = dim

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Return the means ``(R, D)``."""
        lengths = lengths_of(offsets).clamp(min=1)  # an empty history sums to zero
        return segment_sum(values, offsets) / lengths.unsqueeze(1)
