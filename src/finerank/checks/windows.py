"""The claim about every history window: it ends before its request and stays with its user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finerank.checks.report import Check, Findings
from finerank.settings import SPLITS

if TYPE_CHECKING:
    from finerank.checks.examples import AllExamples


def check_windows(examples: AllExamples, name: str) -> Check:
    """No window holds an event at or after its request, or one of another user."""
    stored, found = examples.stored, Findings()
    offsets = stored.event_offsets(name)
    times = stored.events(name).column("time").to_numpy()
    user_of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    back = np.flatnonzero((times[1:] < times[:-1]) & (user_of[1:] == user_of[:-1]))
    if len(back):
        at = stored.moment(times[back[0] + 1])
        user = examples.who(int(user_of[back[0]]), None, None)
        expected = f"{user}: expected events in order of time, found one at {at}"
        found.note(
            f"windows {name}",
            f"{expected} behind one at {stored.moment(times[back[0]])}",
        )
    total = 0
    for split, requests in enumerate(stored.requests):
        start, end = (np.asarray(requests.column(f"{side}.{name}")) for side in ("start", "end"))
        users, now = stored.users(split), stored.times(split)
        total += len(start)
        filled = np.flatnonzero(start < end)
        newest = np.full(len(start), -1)
        newest[filled] = end[filled] - 1
        astray = (start > end) | (start < offsets[users]) | (end > offsets[users + 1])
        late = np.zeros(len(start), dtype=bool)
        late[filled] = times[np.minimum(newest[filled], len(times) - 1)] >= now[filled]
        for request in np.flatnonzero(astray)[:1]:
            user = examples.who(int(users[request]), None, now[request])
            found.note(
                f"windows {name}",
                f"{SPLITS[split]}, request {request}: {user}: expected a window within that "
                f"user's events {offsets[users[request]]} to {offsets[users[request] + 1]}, "
                f"found {start[request]} to {end[request]}",
            )
        for request in np.flatnonzero(late)[:1]:
            user = examples.who(int(users[request]), None, now[request])
            found.note(
                f"windows {name}",
                f"{SPLITS[split]}, request {request}: {user}: expected steps before it, "
                f"found one at {stored.moment(times[newest[request]])}",
            )
    what = f"none of {total:,} holds a step at or after its request, or of another user"
    return found.check(f"windows {name}", what)
