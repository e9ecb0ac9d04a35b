"""Adam over whole parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn


class Adam:
    """Adam, with the same numbers as `torch.optim.Adam`, in one pass over a parameter.

    The first use of any of torch's optimisers loads torch's compiler: 75 MiB, and two seconds
    before the first step. The operator that they call needs none of it.

    Args:
        parameters: those without a gradient rest.
        learning_rate: above 0.
        weight_decay: L2, added to the gradient.

    Source:
        Kingma and Ba, Adam, ICLR 2015, arXiv:1412.6980, algorithm 1.
    """

    betas, eps = (0.9, 0.999), 1e-8

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float = 0.0
    ) -> None:
        self.parameters, self.learning_rate = list(parameters), learning_rate
        self.weight_decay = weight_decay
        # of a parameter: its means, its squares, its steps so far
        self._state: dict[Tensor, tuple[Tensor, Tensor, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters by their gradients."""
        updated: list[Tensor] = [each for each in self.parameters if each.grad is not None]
        if not updated:
            return
        for each in updated:
            if each not in self._state:
                step = torch.zeros((), dtype=torch.float32, device=each.device)
                self._state[each] = torch.zeros_like(each), torch.zeros_like(each), step
        means, squares, steps = map(list, zip(*(self._state[p] for p in updated), strict=True))
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            updated,
            [each.grad for each in updated if each.grad is not None],
            means,
            squares,
            [],
            steps,
            lr=self.learning_rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )
