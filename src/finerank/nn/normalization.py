"""Batch normalisation that a batch of one row, or of none, does not break.

Shape letters: ``B`` rows, ``H`` neurons.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from finerank.nn.filled import mask_of, mean_and_variance, rows_that_count


class BatchNorm(nn.BatchNorm1d):
    """Normalise each neuron over the rows of the batch.

    One row has no variance and no row has no mean: in training, a batch of fewer than two rows
    is normalised by the running statistics and leaves them as they are.

    Shape:
        - input and output: ``(B, H)``.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the normalised rows ``(B, H)``."""
        if self.training and input.shape[0] <= 1:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        if self.training and (count := rows_that_count()) is not None:
            return self._of_rows_that_count(input, count)
        return super().forward(input)

    def _of_rows_that_count(self, x: Tensor, count: Tensor) -> Tensor:
        """The rows normalised ``(B, H)`` by the statistics of those that count."""
        dtype = x.dtype
        x = x.to(self.weight.dtype)
        mean, variance = mean_and_variance(x, mask_of(x, count), count)
        self.count_batch()
        self.keep(mean.detach(), variance.detach(), count)
        normal = (x - mean) * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias, normal, self.weight).to(dtype)

    def count_batch(self) -> None:
        """Count a batch whose statistics were taken elsewhere."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)

    def keep(self, mean: Tensor, variance: Tensor, rows: int | Tensor) -> None:
        """Take the mean and the biased variance of so many rows into the running ones."""
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * rows / (rows - 1), self.momentum)
