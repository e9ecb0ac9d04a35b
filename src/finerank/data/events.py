"""Past events, stored once in order of user and time; a history is a window over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from finerank.data.arrow_file import read_columns
from finerank.data.prefixed import without_prefix

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from finerank.data.batch import Column
    from finerank.data.times import Times


@dataclass(frozen=True)
class EventStore:
    """The events that may enter one history.

    Attributes:
        time: of each event, ascending within a user.
        item: row of each event's item ``(events,)``, or None where the log names no items.
        columns: features of the event that the log holds.
        user_offsets: events of user row ``u`` are ``user_offsets[u]:user_offsets[u + 1]``.
    """

    time: Tensor
    item: Tensor | None
    columns: dict[str, Column]
    user_offsets: Tensor

    @classmethod
    def load(cls, folder: Path) -> EventStore:
        """Memory-map what preparation wrote."""
        columns = read_columns(folder / "events.arrow")
        time, item = columns.pop("time"), columns.pop("item", None)
        offsets = read_columns(folder / "users.arrow")["offset"]
        assert isinstance(time, torch.Tensor)
        assert isinstance(offsets, torch.Tensor)
        assert item is None or isinstance(item, torch.Tensor)
        return cls(time, item, without_prefix(columns), offsets)

    def window(
        self,
        users: np.ndarray,
        times: Times,
        max_length: int,
        max_age: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the histories of requests begin and end in the store.

        The history of a request is the last ``max_length`` events of its user strictly before its
        time, and not longer before it than ``max_age``; an event at the same time is not history.
        User rows that the store doesn't have (unknown users) have no history.

        Args:
            users: user row of each request ``(R,)``.
            times: time of each request ``(R,)``.

        Returns:
            First event and end ``(R,)`` each, int64.
        """
        first, end = self._before(users, times)
        if max_age is not None:
            _, first = self._before(users, times - max_age)
        return np.maximum(first, end - max_length), end

    def _before(self, users: np.ndarray, times: Times) -> tuple[np.ndarray, np.ndarray]:
        """First event of each user, and the end of those strictly before a time."""
        offsets, event_times = self.user_offsets.numpy(), self.time.numpy()
        last = len(offsets) - 1
        known = users < last
        first = np.where(known, offsets[np.minimum(users, last)], 0)
        low = first.copy()
        high = np.where(known, offsets[np.minimum(users + 1, last)], 0)
        open_ = np.flatnonzero(low < high)
        while len(open_):  # one binary search for all requests together
            least, most = low[open_], high[open_]
            middle = (least + most) // 2
            before = event_times[middle] < times[open_]
            low[open_] = least = np.where(before, middle + 1, least)
            high[open_] = most = np.where(before, most, middle)
            open_ = open_[least < most]
        return first, low
