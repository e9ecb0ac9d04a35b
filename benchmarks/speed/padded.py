"""What libraries with padded histories train on: columns by name, each row with its own history."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cases import Case
    from synthetic import Arrays


def columns_of(case: Case, arrays: Arrays) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The features by name and the labels ``(rows,)``, or ``(rows, tasks)`` where there are more.

    Histories are ``hist_item`` and ``hist_category`` ``(rows, max_length)``, zeros behind, with
    their lengths in ``length``.
    """
    labels = np.stack([arrays.columns[task] for task in case.tasks], axis=1).astype(np.float32)
    if len(case.tasks) == 1:
        labels = labels[:, 0]
    names = [name for name in arrays.columns if name not in (*case.tasks, "time")]
    columns = {name: np.asarray(arrays.columns[name]) for name in names}
    if case.history is not None:
        items, lengths = arrays.padded(case.max_length)
        user = columns["user"]
        columns["hist_item"] = items[user]
        columns["hist_category"] = arrays.category_of_item[columns["hist_item"]]
        columns["length"] = lengths[user].astype(np.int32)
    return columns, labels
