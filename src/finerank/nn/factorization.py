"""All products of two fields, in time linear in their number.

Shape letters: ``B`` rows (candidates), ``F`` fields, ``D`` embedding width.
"""

from torch import Tensor, nn


class FactorizationMachine(nn.Module):
    r"""Sum the dot products of all pairs of fields.

    .. math::
        \sum_{i < j} v_i^\top v_j
        = \frac{1}{2} \sum_{d} \Big[ \big(\sum_i v_{id}\big)^2 - \sum_i v_{id}^2 \Big]

    Shape:
        - input: one vector for each field ``(B, F, D)``, a feature's value times its embedding.
        - output: ``(B, 1)``.

    Source:
        Rendle, Factorization Machines, ICDM 2010, lemma 3.1; the pairwise term alone.
    """

    output_dim = 1

    def forward(self, fields: Tensor) -> Tensor:
        """Return the pairwise term ``(B, 1)``."""
        square_of_sum = fields.sum(dim=1).square()  # (B, D)
        sum_of_squares = fields.square().sum(dim=1)  # (B, D)
        return 0.5 * (square_of_sum - sum_of_squares).sum(dim=1, keepdim=True)
