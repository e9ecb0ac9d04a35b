"""The logits of raw rows: requests found, histories looked up, encoded as before training.

Shapes: ``R`` requests, ``B`` candidates, ``T`` tasks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from finerank.data.examples import Examples
from finerank.data.lists import read_lists
from finerank.data.row_encoder import EncodedRows, starts_request
from finerank.data.storage import as_column
from finerank.evaluation.evaluator import score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.bundle import Bundle
    from finerank.data.past import Past


def logits_of(
    bundle: Bundle,
    rows: pa.Table,
    past: Past,
    past_users: pa.Array | None = None,
    *,
    one_request: bool = False,
) -> np.ndarray:
    """The logits ``(B, T)``; neighbouring rows of one user, time and context are a request.

    Args:
        rows: as `RawRows.named` gives them.
        past: where histories are looked up.
        past_users: whose they are ``(B,)``; the rows' own users where left out.
        one_request: whether all rows are known to be of one, so that its lists are read once.
    """
    schema = bundle.schema
    features = [f for f in schema.features if f.home == "log" and f.side != "history"]
    encoded = _without_missing_times(bundle.encoder.encode(rows, [f.name for f in features]))
    request = [f.name for f in features if f.side != "item"]
    users = past_users
    if users is None and "user" in rows.column_names:
        users = rows["user"].combine_chunks()
    starts = _starts(encoded, request, None if users is None else past.keys.encode(users))
    with_lists = rows.slice(0, 1) if one_request else rows
    lists = {
        h.name: read_lists(with_lists, h.name, bundle.recipe, bundle.encoder)
        for h in schema.list_histories
    }
    for each in lists.values():
        starts[: len(each)] |= each.changes()
    first = np.flatnonzero(starts)
    places = pa.array(first)
    own = {name: as_column(encoded.features[name].take(places)) for name in request}
    users = None if users is None else users.take(places)
    times = None if encoded.time is None else encoded.time[first]
    windows = past.windows(users, times, len(first), schema)
    for name, each in lists.items():
        bounds = each.offsets[first], each.offsets[first + 1]
        windows[name] = torch.from_numpy(bounds[0]), torch.from_numpy(bounds[1])
    examples = Examples(
        schema=schema,
        users=bundle.users,
        items=bundle.items,
        stores={**past.stores, **{name: each.store() for name, each in lists.items()}},
        user=torch.zeros(len(first), dtype=torch.int32)
        if encoded.user is None
        else torch.from_numpy(encoded.user[first]),
        request=own,
        windows=windows,
        first_candidate=torch.from_numpy(np.append(first, len(starts))),
        item=None if encoded.item is None else torch.tensor(encoded.item),
        candidate={
            f.name: as_column(encoded.features[f.name]) for f in features if f.side == "item"
        },
        labels=None,
    )
    return score(bundle.model, examples)


def _starts(rows: EncodedRows, features: Sequence[str], past_user: np.ndarray | None) -> np.ndarray:
    """Where a row's request differs from that of the row before.

    Args:
        rows: encoded rows.
        features: those of requests.
        past_user: row of each row's user in the past, which may know users of its own.
    """
    same = np.zeros(len(rows), dtype=np.int32)
    starts = np.zeros(len(rows), dtype=bool)
    for user in (rows.user, past_user):
        keyed = replace(
            rows,
            user=same if user is None else user,
            time=same if rows.time is None else rows.time,
        )
        starts |= starts_request(keyed, features)
    return starts


def _without_missing_times(rows: EncodedRows) -> EncodedRows:
    """A row whose time is missing asks now: after all that is known."""
    if rows.time is None or rows.time.dtype.kind != "f":
        return rows
    return replace(rows, time=np.where(np.isnan(rows.time), np.inf, rows.time))
