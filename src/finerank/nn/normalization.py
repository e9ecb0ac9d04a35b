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
            self.count_batch()
            long = input if self.running_mean is None else input.to(self.running_mean.dtype)
            normal, *_ = self.by_rows_that_count(long, count)
            if self.affine:
                normal = torch.addcmul(self.bias, normal, self.weight)
            return normal.to(input.dtype)
        return super().forward(input)

    def by_rows_that_count(self, x: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalise by the statistics of the rows that count, and keep these.

        Returns:
            The normalised rows ``(B, H)``, mean and inverse deviation ``(H,)``, and 1 for the rows
            that count ``(B, 1)``, as `finerank.nn.filled.mask_of`.
        """
        mask = mask_of(x, count)
        mean, variance = mean_and_variance(x, mask, count)
        self.keep(mean.detach(), variance.detach(), count)
        inverse_std = (variance + self.eps).rsqrt()
        return (x - mean) * inverse_std, mean, inverse_std, mask

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
