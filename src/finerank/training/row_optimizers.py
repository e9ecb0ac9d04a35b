"""Optimisers of embedding tables whose steps cost what a batch uses of them, whatever their size.

Shapes: ``V`` rows of the tables, ``U`` rows in use, ``D`` embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from finerank.nn.tables import EmbeddingTables


class RowOptimizer(ABC):
    """Updates the rows that the last batch used, and touches no other.

    Args:
        tables: sparse ones.
        learning_rate: above 0.
    """

    def __init__(self, tables: Sequence[EmbeddingTables], *, learning_rate: float) -> None:
        self.tables, self.learning_rate = tables, learning_rate

    @torch.no_grad()
    def step(self) -> None:
        """Update the rows in use by their gradients."""
        for index, each in enumerate(self.tables):
            if each.in_use is not None:
                rows, vectors, _ = each.in_use
                self._update(index, rows, vectors, each.in_use.gradient())
                each.weight.index_copy_(0, rows, vectors)

    @abstractmethod
    def _update(self, index: int, rows: Tensor, vectors: Tensor, gradient: Tensor) -> None:
        """Update the vectors of the rows ``(U,)`` by their gradient, both ``(U, D)``.

        Args:
            index: which of the tables.
            rows: in it; those that are equal have equal vectors and gradients, so that it doesn't
                matter which of them is written last.
            vectors: changed in place.
            gradient: of the vectors.
        """


class LazyAdam(RowOptimizer):
    r"""Adam for the rows in use; the moments of the others stay as they are.

    With :math:`k` the number of steps so far, those without this row among them,

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2

    .. math::
        w \leftarrow w - \eta\, \frac{m / (1 - \beta_1^k)}{\sqrt{v / (1 - \beta_2^k)} + \epsilon}

    Where every step uses every row it is Adam. A row that a step does not use has a gradient of 0
    there: Adam moves it on by what is left of its momentum, and lets the momentum fade; here it
    rests.

    Source:
        Kingma and Ba, Adam, ICLR 2015, arXiv:1412.6980, algorithm 1; restricted to rows as in
        `torch.optim.SparseAdam`.
    """

    betas, eps = (0.9, 0.999), 1e-8

    def __init__(self, tables: Sequence[EmbeddingTables], *, learning_rate: float) -> None:
        super().__init__(tables, learning_rate=learning_rate)
        self._steps = 0
        self._means = [_zeros(each.weight.shape, each.weight) for each in tables]  # (V, D)
        self._squares = [_zeros(each.weight.shape, each.weight) for each in tables]  # (V, D)

    def step(self) -> None:
        """Update the rows in use by their gradients."""
        self._steps += 1
        super().step()

    def _update(self, index: int, rows: Tensor, vectors: Tensor, gradient: Tensor) -> None:
        beta_1, beta_2 = self.betas
        means, squares = self._means[index], self._squares[index]
        mean = means.index_select(0, rows).lerp_(gradient, 1 - beta_1)
        square = squares.index_select(0, rows).mul_(beta_2)
        square.addcmul_(gradient, gradient, value=1 - beta_2)
        means.index_copy_(0, rows, mean)
        squares.index_copy_(0, rows, square)
        unbiased_1, unbiased_2 = (1 - beta**self._steps for beta in self.betas)
        scale = square.div_(unbiased_2).sqrt_().add_(self.eps)
        vectors.addcdiv_(mean, scale, value=-self.learning_rate / unbiased_1)


class RowwiseAdagrad(RowOptimizer):
    r"""Adagrad with one number a row: as little memory as there can be.

    .. math::
        s \leftarrow s + \frac{1}{D} \sum_d g_d^2, \qquad
        w \leftarrow w - \eta\, \frac{g}{\sqrt{s} + \epsilon}

    Source:
        Duchi et al., Adaptive Subgradient Methods, JMLR 2011; a row as one coordinate as in
        Mudigere et al., Software-Hardware Co-design for Fast and Scalable Training of DLRMs,
        ISCA 2022, arXiv:2104.05158, section 4.1.
    """

    eps = 1e-8

    def __init__(self, tables: Sequence[EmbeddingTables], *, learning_rate: float) -> None:
        super().__init__(tables, learning_rate=learning_rate)
        self._sums = [_zeros(each.weight.shape[:1], each.weight) for each in tables]  # (V,)

    def _update(self, index: int, rows: Tensor, vectors: Tensor, gradient: Tensor) -> None:
        total = self._sums[index].index_select(0, rows).add_(gradient.square().mean(dim=1))
        self._sums[index].index_copy_(0, rows, total)
        scale = total.sqrt_().add_(self.eps).unsqueeze(1)
        vectors.addcdiv_(gradient, scale, value=-self.learning_rate)


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros that take up memory only where they are written to, as NumPy's do."""
    if like.device.type != "cpu" or like.dtype not in (torch.float32, torch.float64):
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    kind: Any = np.float32 if like.dtype == torch.float32 else np.float64
    return torch.from_numpy(np.zeros(shape, dtype=kind))
