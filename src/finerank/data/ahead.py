"""Items made in a thread before they are asked for."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


def made_ahead(items: Iterator[T], *, ahead: int = 2) -> Iterator[T]:
    """The same items, none of them None, made by a thread while those before them are used.

    Args:
        ahead: how many are made before they are asked for.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as maker:
        threads = torch.get_num_threads()
        maker.submit(_compute_alone).result()
        torch.set_num_threads(threads)  # for this thread: the setting is the last one's
        ready = deque(maker.submit(next, items, None) for _ in range(ahead))
        while (item := ready.popleft().result()) is not None:
            ready.append(maker.submit(next, items, None))
            yield item


def _compute_alone() -> None:
    """Let torch compute in this thread only, for as long as the thread lives.

    Else it would start a team of threads for it, and with two teams on the same cores those of the
    training step are kept waiting for each other: a DIN's step on two cores takes a quarter longer.
    """
    torch.set_num_threads(1)
    torch.get_num_threads()  # what it finds at its first use in a thread stays
