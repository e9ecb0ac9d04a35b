"""Training by compiled code: the blocks of a model that look nothing up, compiled by torch."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from finerank.models.inputs import Inputs
from finerank.nn import host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

_BACKEND = "inductor"
_MOST_VARIANTS = 64  # of one class's forward: each width is one, as of histories' attentions


class Compiler:
    """Compiles what a model does after the lookup of embeddings, forward and backward.

    Each block is one graph without a break. Numbers of rows are symbols in it, so that it serves
    batches of any number of requests, candidates, steps and pairs; torch makes a variant of it for
    batches that have none of something, or one.

    The lookup stays as it is. It makes the leaf that gets the gradient of the rows in use, where a
    graph ends; and an optimiser that puts steps off changes vectors there by its count of steps,
    for each of which torch would compile it anew.

    What can't be compiled is no reason to stop: from then on the model runs as it is written.

    Args:
        model: on the device that it is trained on.
        wanted: whether to compile anything.

    Attributes:
        warning: why nothing is compiled though it was wanted, or nothing any more; else empty.
    """

    def __init__(self, model: nn.Module, *, wanted: bool) -> None:
        self.warning, self._forwards = "", {}
        if wanted and host.is_readable(next(model.parameters())):
            self.warning = "training.compile is for GPUs: on a CPU nothing was compiled"
        elif wanted:
            self._forwards = {block: self._compiled(block) for block in _blocks(model)}

    @property
    def compiles(self) -> bool:
        """Whether the model runs compiled."""
        return bool(self._forwards) and not self.warning

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the model run compiled, in training; scores are computed as everywhere else."""
        if not self._forwards:
            yield
            return
        with (
            torch._dynamo.config.patch(recompile_limit=_MOST_VARIANTS),  # noqa: SLF001
            # so that a backward that can't be compiled shows in the forward
            torch._functorch.config.patch(force_non_lazy_backward_lowering=True),  # noqa: SLF001
        ):
            try:
                for block, forward in self._forwards.items():
                    vars(block)["forward"] = forward
                yield
            finally:
                for block in self._forwards:
                    del vars(block)["forward"]

    def _compiled(self, block: nn.Module) -> Callable[..., Tensor]:
        """The block's forward, compiled when it is first called."""
        plain: Callable[..., Tensor] = block.forward

        @cache
        def compiled() -> Callable[..., Tensor]:
            return torch.compile(plain, fullgraph=True, dynamic=True, backend=_BACKEND)

        def forward(*arguments: Any, **named: Any) -> Tensor:  # noqa: ANN401
            if not self.warning:
                try:
                    _fix_widths(arguments)
                    return compiled()(*arguments, **named)
                except Exception as error:  # whatever else is wrong, the plain one says it again
                    self.warning = (
                        f"training.compile: {type(block).__name__} could not be compiled, so that "
                        f"training went on without: {_reason(error)}"
                    )
            return plain(*arguments, **named)

        return forward


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts of a model that look nothing up."""
    for child in module.children():
        if isinstance(child, Inputs):
            continue
        looks_up = any(isinstance(each, Inputs) for each in child.modules())
        if looks_up or isinstance(child, nn.ModuleDict | nn.ModuleList):
            yield from _blocks(child)
        else:
            yield child


def _fix_widths(arguments: Iterable[Any]) -> None:
    """Let all sizes but the numbers of rows be what they are.

    As a symbol, a width is taken for a number of rows that it happens to be equal to.
    """
    for each in arguments:
        if isinstance(each, torch.Tensor):
            torch._dynamo.mark_static(each, list(range(1, each.ndim)))  # noqa: SLF001


def _reason(error: Exception) -> str:
    """What went wrong, without torch's advice on how to look into it."""
    first = str(error).strip().partition("\n\n")[0]
    return shorten(f"{type(error).__name__}: {first}", 300)
