"""Batch normalisation that a batch of one row, or of none, does not break.

Shape letters: ``B`` rows, ``H`` neurons.
"""

from torch import Tensor, nn
from torch.nn import functional


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
        return super().forward(input)

    def count_batch(self) -> None:
        """Count a batch whose statistics were taken elsewhere."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)

    def keep(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        """Take the mean and the biased variance of so many rows into the running ones."""
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (rows / (rows - 1)), self.momentum)
