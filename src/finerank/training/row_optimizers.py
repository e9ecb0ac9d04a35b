"""Optimisers of embedding tables whose steps cost what a batch uses of them, whatever their size.

Shapes: ``V`` rows of the tables, ``U`` rows in use, ``D`` embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from finerank.nn import allocator, host
from finerank.nn.kernels import library
from finerank.nn.kernels.rows import RowsOf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from finerank.nn.tables import EmbeddingTables, RowsInUse

_SETTLED = 2**16  # rows that are brought along together
_FEWEST = 256  # rows of a share of the work


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
                self._step(index, each, each.in_use)

    def _step(self, index: int, tables: EmbeddingTables, in_use: RowsInUse) -> None:
        rows, vectors, _ = in_use
        self._update(index, rows, vectors, in_use.gradient())
        tables.weight.index_copy_(0, rows, vectors)

    def catch_up(self, index: int, rows: Tensor, vectors: Tensor) -> None:  # noqa: B027 - none lags
        """Change the vectors of rows that are looked up to what they are after the steps so far.

        Args:
            index: which of the tables.
            rows: in it ``(U,)``.
            vectors: theirs ``(U, D)``, changed in place.
        """

    def settle(self) -> None:  # noqa: B027
        """Let all rows of the tables be what they are after the steps so far."""

    def make_room(self) -> bool:
        """Let one more step fit into what is kept of each; whether that lies elsewhere now."""
        return False

    def count_replayed(self) -> None:  # noqa: B027
        """Count, on the host, a step that a device replayed."""

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
        device = tables[0].weight.device if tables else None
        self._counted = torch.zeros((), dtype=torch.float64, device=device)  # the same, on a device
        self._moments = [  # of each row m and v, side by side (V, 2, D)
            _zeros((len(each.weight), 2, each.weight.shape[1]), each.weight) for each in tables
        ]

    def step(self) -> None:
        """Update the rows in use by their gradients."""
        self._steps += 1
        if not host.is_readable(self._counted):
            self._counted.add_(1)
        super().step()

    def count_replayed(self) -> None:
        """Count, on the host, a step that a device replayed."""
        self._steps += 1

    def _step(self, index: int, tables: EmbeddingTables, in_use: RowsInUse) -> None:
        rows, vectors, _ = in_use
        if not library.serves(vectors):
            super()._step(index, tables, in_use)
            return
        gradient = in_use.gradient().contiguous()
        left, of_rows = self._left(), self._rows_of(index, rows)
        steps = 0 if left is None else left.shape[1]
        library.call("adam_step", of_rows, left, steps, vectors, gradient, tables.weight)

    @property
    def _now(self) -> int | Tensor:
        """The steps so far; by a device counted there, for it may replay what it was told once."""
        return self._steps if host.is_readable(self._counted) else self._counted

    def _rows_of(self, index: int, rows: Tensor) -> RowsOf:
        """The argument of the compiled functions; it points into the tensors."""
        moments = self._moments[index]
        shares = library.shares_of(len(rows), fewest=_FEWEST)
        return library.filled(
            RowsOf, shares, len(rows), moments.shape[2], rows, moments,
            self._last_use_of(index), self._steps, *self.betas, self.eps, self.learning_rate,
        )  # fmt: skip

    def _last_use_of(self, index: int) -> Tensor | None:  # noqa: ARG002
        """The step of each row's last use ``(V,)``, where that counts."""
        return None

    def _left(self) -> Tensor | None:
        """What is left of m and v after some steps without their row ``(2, steps)``, likewise."""
        return None

    def _update(self, index: int, rows: Tensor, vectors: Tensor, gradient: Tensor) -> None:
        beta_1, beta_2 = self.betas
        moments = self._moments_before(index, rows)
        mean, square = moments.unbind(dim=1)
        mean.lerp_(gradient, 1 - beta_1)
        square.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
        self._moments[index].index_copy_(0, rows, moments)
        unbiased_1, unbiased_2 = (1 - beta**self._now for beta in self.betas)
        scale = square.div_(unbiased_2).sqrt_().add_(self.eps).mul_(unbiased_1)
        vectors.addcdiv_(mean, scale, value=-self.learning_rate)

    def _moments_before(self, index: int, rows: Tensor) -> Tensor:
        """The moments of the rows in use before this step ``(U, 2, D)``, as a copy."""
        return self._moments[index].index_select(0, rows)


class DeferredAdam(LazyAdam):
    r"""Adam over every row, at the cost of the rows in use.

    In a step that does not use a row, the gradient of the row is 0, and Adam moves it on by what is
    left of its momentum. With :math:`m` and :math:`v` of its last use, in step :math:`\tau`, and
    :math:`c_s = \sqrt{1 - \beta_2^s}`, its moves in the :math:`k` steps since add up to

    .. math::
        \sum_{j=1}^{k} \eta \frac{\beta_1^j m / (1 - \beta_1^{\tau+j})}
            {\beta_2^{j/2} \sqrt v / c_{\tau+j} + \epsilon}
        \approx \eta \frac{M m}{\sqrt v + \epsilon M' / M}, \quad
        M = \sum_{j=1}^{k} \frac{\beta_1^j\, c_{\tau+j}}{\beta_2^{j/2} (1 - \beta_1^{\tau+j})},
        \quad
        M' = \sum_{j=1}^{k} \frac{\beta_1^j\, c_{\tau+j}^2}{\beta_2^j (1 - \beta_1^{\tau+j})},

    up to :math:`(\epsilon / \sqrt v)^2`. So they are made up for when the row is next looked up,
    and by `settle` for all rows. :math:`M` and :math:`M'` are the same for all rows of one
    :math:`\tau`; a step adds a term to those of the latest :math:`\tau`. Further back the terms
    are below :math:`10^{-13}`.

    The learning rate may change after `settle` only.

    Source:
        Kingma and Ba, Adam, ICLR 2015, arXiv:1412.6980, algorithm 1.
    """

    _latest = 300  # steps back in which a term counts
    _room = 1024  # steps at first

    def __init__(self, tables: Sequence[EmbeddingTables], *, learning_rate: float) -> None:
        super().__init__(tables, learning_rate=learning_rate)
        self._last_use = [
            _zeros(each.weight.shape[:1], each.weight, torch.int32) for each in tables
        ]
        self._in_use: dict[int, Tensor] = {}  # moments of the rows looked up
        device = self._counted.device
        # M and M' by the step of the last use
        self._moves = torch.zeros(2, self._room, dtype=torch.float64, device=device)
        beta_1, beta_2 = self.betas
        betas = torch.tensor([[beta_1], [beta_2]], dtype=torch.float64, device=device)
        self._powers = betas ** torch.arange(self._room, device=device)  # by the steps since
        self._back = torch.arange(self._latest, 0, -1, device=device)
        ratios = torch.tensor([[beta_1 / beta_2**0.5], [beta_1 / beta_2]], dtype=torch.float64)
        self._shares = ratios.to(device) ** self._back

    def make_room(self) -> bool:
        """Let one more step fit into what is kept of each; whether that lies elsewhere now."""
        if self._steps + 1 < self._moves.shape[1]:
            return False
        self._moves = torch.cat([self._moves, torch.zeros_like(self._moves)], dim=1)
        on = self._powers[:, -1:] * self._powers[:, 1:2]
        self._powers = torch.cat([self._powers, self._powers * on], dim=1)
        return True

    def step(self) -> None:
        """Update the rows in use by their gradients, and count the moves of the others."""
        self.make_room()
        super().step()
        (beta_1, beta_2), now = self.betas, self._now
        root, unbiased = (1 - beta_2**now) ** 0.5, 1 - beta_1**now
        if isinstance(now, int):
            first = max(0, now - self._latest)
            shares = self._shares[:, self._latest - (now - first) :]
            for moves, share, power in zip(self._moves, shares, (1, 2), strict=True):
                moves[first:now].add_(share, alpha=root**power / unbiased)
        else:
            last_uses = now.long() - self._back
            scale = torch.stack([root, root.square()]).div_(unbiased).unsqueeze(1)
            shares = (self._shares * scale).mul_(last_uses >= 0)  # there is none before the first
            self._moves.index_add_(1, last_uses.clamp_(min=0), shares)

    @torch.no_grad()
    def settle(self) -> None:
        """Move all rows on to where they are by now, some at a time."""
        for index, each in enumerate(self.tables):
            last = self._last_use[index]
            if host.is_readable(last):
                behind = ((last > 0) & (last < self._steps)).nonzero().squeeze(1)
            else:
                behind = torch.arange(len(last), device=last.device)
            for rows in behind.split(_SETTLED):
                vectors = each.weight.index_select(0, rows)
                moments = self._moved_on(index, rows, vectors)
                each.weight.index_copy_(0, rows, vectors)
                self._moments[index].index_copy_(0, rows, moments)
                self._set_last_use(index, rows)

    def _update(self, index: int, rows: Tensor, vectors: Tensor, gradient: Tensor) -> None:
        super()._update(index, rows, vectors, gradient)
        self._set_last_use(index, rows)

    def _set_last_use(self, index: int, rows: Tensor) -> None:
        last, now = self._last_use[index], self._now
        if isinstance(now, int):
            last.index_fill_(0, rows, now)
        else:
            last.index_copy_(0, rows, now.to(last.dtype).expand(len(rows)))

    def _moments_before(self, index: int, rows: Tensor) -> Tensor:  # noqa: ARG002
        return self._in_use.pop(index)

    @torch.no_grad()
    def catch_up(self, index: int, rows: Tensor, vectors: Tensor) -> None:
        """Move the vectors of rows that are looked up on to where they are by now."""
        if library.serves(vectors):
            of_rows, latest = self._rows_of(index, rows), self._moves.shape[1]
            library.call("catch_up", of_rows, self._moves, latest, vectors)
        else:
            self._in_use[index] = self._moved_on(index, rows, vectors)

    def _last_use_of(self, index: int) -> Tensor | None:
        return self._last_use[index]

    def _left(self) -> Tensor | None:
        return self._powers

    def _moved_on(self, index: int, rows: Tensor, vectors: Tensor) -> Tensor:
        """Move the vectors of rows on, in place; their moments by now, as a copy."""
        moments = super()._moments_before(index, rows)
        mean, square = moments.unbind(dim=1)
        last = self._last_use[index].index_select(0, rows)
        moves, of_eps = self._moves.index_select(1, last).to(vectors.dtype).unsqueeze(2)
        # a row that was never in use has no moments: 0 / 1e-30 leaves it where it is
        of_eps = (of_eps / moves.clamp(min=1e-30)).mul_(self.eps).clamp_(min=1e-30)
        vectors.addcdiv_(mean * moves, square.sqrt().add_(of_eps), value=-self.learning_rate)
        now = self._now
        since = (now if isinstance(now, int) else now.long()) - last
        left = self._powers.index_select(1, since).to(vectors.dtype)
        return moments.mul_(left.T.unsqueeze(2))


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


def _zeros(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    dtype = like.dtype if dtype is None else dtype
    if like.device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=like.device)
    return allocator.zeros(shape, dtype)
