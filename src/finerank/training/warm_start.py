"""Training that goes on from an earlier model, whose vocabularies have grown since.

Shapes: ``V`` rows of an embedding table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from finerank.data.schema import UNKNOWN
from finerank.errors import FinerankError
from finerank.models.inputs import embedding_tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from finerank.data.encoding import Encoding
    from finerank.data.schema import Schema


def start_from(model: nn.Module, earlier: nn.Module, where: str) -> None:
    """Give a model the weights of an earlier one.

    A row of an embedding table that is new starts as the unknown one, which is what its id was
    so far: before its first step the model scores every row as the earlier one does.

    Args:
        where: the earlier model, in an error.

    Raises:
        FinerankError: the models differ in more than the rows of their tables.
    """
    weights = earlier.state_dict()
    tables = {rows.data_ptr() for _, rows in embedding_tables(model)}
    own = model.state_dict()  # of the model's own memory
    names = own.keys()
    wrong = sorted(names ^ weights.keys())
    for name in names & weights.keys():
        one, other = own[name], weights[name]
        grows = (
            one.data_ptr() in tables and one.shape[1:] == other.shape[1:] and len(one) >= len(other)
        )
        if one.shape != other.shape and not grows:
            wrong.append(name)
    if wrong:
        raise FinerankError(
            where,
            expected="a model of the same parts and widths",
            found=f"a difference in {', '.join(wrong[:3])}",
            fix="Take its model's name and settings, or train without it.",
        )
    with torch.no_grad():
        for name in names:
            one, other = own[name], weights[name]
            if one.data_ptr() in tables:
                one[len(other) :] = other[UNKNOWN]
                one[: len(other)] = other
            else:
                one.copy_(other)


def check_grown(
    schema: Schema,
    encodings: Mapping[str, Encoding],
    earlier_schema: Schema,
    earlier: Mapping[str, Encoding],
    where: str,
) -> None:
    """Check that ids and numbers mean what they meant to an earlier model.

    Raises:
        FinerankError: other features, histories or tasks, other statistics, or a vocabulary that
            doesn't begin with the earlier one.
    """

    def without_sizes(each: Schema) -> Schema:
        return replace(each, features=tuple(replace(f, size=0) for f in each.features))

    differ = [] if without_sizes(schema) == without_sizes(earlier_schema) else ["the schema"]
    if not differ:
        differ = [n for n in encodings if not _begins_with(encodings[n], earlier[n])]
    if differ:
        raise FinerankError(
            where,
            expected="a model trained on this data set, or on one that it was appended to",
            found=f"another meaning of {', '.join(differ)}",
            fix="Append with `finerank append`, or train anew.",
        )


def _begins_with(new: Encoding, old: Encoding) -> bool:
    # Training that starts anew needs no pyarrow, 40 MB.
    from finerank.data.encoding import IdEncoding, IdsEncoding  # noqa: PLC0415
    from finerank.data.vocabulary import Vocabulary  # noqa: PLC0415

    if not isinstance(new, IdEncoding | IdsEncoding) or not isinstance(
        old, IdEncoding | IdsEncoding
    ):
        return new == old
    one, other = new.vocabulary, old.vocabulary
    if isinstance(one, Vocabulary) and isinstance(other, Vocabulary):
        return bool(one.values.slice(0, len(other.values)).equals(other.values))
    return type(one) is type(other) and len(one) == len(other)
