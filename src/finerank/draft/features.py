"""What a column seems to be as a feature: its type and side, or why it is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finerank.draft.columns import SEPARATORS, counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finerank.draft.columns import Column, Table

Settings = dict[str, Any]

_FEW = 32  # values that an integer may have and still be a category
_LONG_TEXT = 50  # letters, on average
_LISTED = {"genres", "genre", "tags", "tag", "categories", "keywords", "topics", "labels", "attrs"}
_CATEGORY = {  # names of codes, also where they are numbers
    *("id", "code", "zip", "city", "country", "region", "state", "province", "category", "brand"),
    *("type", "class", "group", "channel", "device", "os", "author", "seller", "shop", "store"),
    *("campaign", "advertiser", "publisher", "genre", "tag"),
}
_NO_FEATURE = {  # words of a column of the log -> why it is left out
    word: reason
    for words, reason in (
        (
            "dwell watch watched play stay finish revenue reward view viewed hate dislike skip",
            "known only after the event",
        ),
        ("position pos rank slot propensity", "decided by what ranked it then"),
        ("session request impression", "names a visit, which does not come back"),
        ("fold split", "names a part of a split"),
        ("weight", "weighs the row"),
    )
    for word in words.split()
}


def why_no_input(column: Column) -> str | None:
    """Why a column of the log is no input whatever its values, if so."""
    time = "a time; derive of it what you want, such as the hour" if column.is_time else None
    return next((_NO_FEATURE[word] for word in column.words if word in _NO_FEATURE), time)


def side_of(column: Column, depending: Mapping[str, set[str]]) -> tuple[str, str]:
    """Whose a column of the log is, and why."""
    if column.named(("item", "product", "movie", "video")):
        return "item", "by its name"
    if column.words[:1] == ["user"]:
        return "user", "by its name"
    for side, columns in depending.items():
        if column.values > 1 and column.name in columns:
            return side, f"one for each {side}"
    return "context", ""


def type_of(column: Column, table: Table) -> tuple[Settings | None, str]:
    """The type of a feature, or None, and why."""
    if (reason := _why_useless(column)) is not None:
        return None, reason
    if column.kind == "list":
        return _list_type(column)
    if column.kind == "text":
        return _text_type(column, table)
    few = column.kind == "int" and column.values <= _FEW
    is_id = few or column.kind == "bool" or (column.whole and column.named(_CATEGORY))
    return {"type": "id" if is_id else "number"}, column.evidence


def _why_useless(column: Column) -> str | None:
    """Why a column can be no feature as it is, if so."""
    if column.kind == "other":
        return f"{column.type} is not used"
    if column.values <= 1:
        return "constant" if column.values else "always null"
    if column.kind == "time":
        return "a time; derive of it what you want, such as the year"
    if column.whole and column.values == column.rows == column.high - column.low + 1 > _FEW:
        return "numbers the rows"
    if column.whole and column.named(_CATEGORY):
        return _why_too_many(column)
    return None


def _why_too_many(column: Column) -> str | None:
    """Why ids can teach nothing, if so."""
    if column.values == column.present or column.values > max(_FEW, column.present / 2):
        return f"{column.evidence} in {counted(column.rows, 'row')}, hardly any twice"
    return None


def _list_type(column: Column) -> tuple[Settings | None, str]:
    least, most = column.least, column.most
    length = f"lists of {least} to {most}" if least != most else f"lists of {least}"
    if column.element in ("int", "text"):
        return {"type": "ids"}, f"{length}, {column.evidence}"
    if column.element == "float" and least == most > 0:
        return {"type": "vector"}, length
    return None, f"{length}, {column.type}"


def _text_type(column: Column, table: Table) -> tuple[Settings | None, str]:
    is_list = column.named(_LISTED)
    for separator, texts in zip(SEPARATORS, column.separated, strict=True):
        if texts < 0.1 * column.present or (separator == " " and not is_list):
            continue
        pieces = table.pieces(column.name, separator)
        if pieces < (column.values if is_list else column.values / 2):
            text = f"{counted(pieces, 'id')} in {counted(column.values, 'text')}"
            return {"type": "ids", "separator": separator}, text
    if column.length > _LONG_TEXT:
        return None, f"free text, {column.length:.0f} letters on average"
    if (reason := _why_too_many(column)) is not None:
        return None, reason
    hint = ""
    if column.values > _FEW and not column.named(_CATEGORY) and table.reads_as_numbers(column.name):
        hint = f"; for a number derive TRY_CAST({column.name} AS DOUBLE)"
    return {"type": "id"}, column.evidence + hint
