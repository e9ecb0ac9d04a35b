"""The files that a path of a recipe means, and their kinds."""

from __future__ import annotations

from pathlib import Path

from finerank.errors import FinerankError

_ENDINGS = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".tsv", ".txt", ".dat", ".data"),
    "json": (".jsonl", ".ndjson", ".json"),
    "arrow": (".arrow", ".feather", ".ipc"),
}
_COMPRESSED = (".gz", ".zst")  # of text


def find_files(path: str, where: str, kind: str | None = None) -> list[Path]:
    """The files that a path of a recipe means: itself, all of a folder, or those of a pattern.

    Args:
        kind: what they are, whatever their endings say. Of a folder, names that begin with ``_`` or
            ``.`` are left out then.

    Raises:
        FinerankError: there are none, or they are of several kinds or of none that can be read.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(
            file
            for file in place.rglob("*")
            if (file.name[0] not in "_." if kind else kind_of(file) is not None) and file.is_file()
        )
    elif place.is_file():
        files = [place]
    else:
        anchor = Path(place.anchor) if place.is_absolute() else Path()
        pattern = str(place.relative_to(anchor))
        files = sorted(f for f in anchor.glob(pattern) if f.is_file())
    if not files:
        found = "no file"
        if place.is_dir() and any(f.is_file() for f in place.rglob("*")):
            found += " whose ending tells of Parquet, Arrow, CSV or JSON lines"
        raise FinerankError(where, expected=f"a file, folder or pattern {path}", found=found)
    if kind is not None:
        return files
    kinds = {kind_of(file) for file in files}
    if len(kinds) != 1 or None in kinds:
        found = ", ".join(sorted({file.suffix or file.name for file in files}))
        raise FinerankError(
            where,
            expected="Parquet, Arrow, CSV or JSON lines, all files of one kind",
            found=found,
            fix="Say format where the endings don't tell.",
        )
    return files


def told_kind(path: str, where: str) -> str | None:
    """Of what kind the files of a path are by their endings; None where these don't tell.

    Raises:
        FinerankError: there are no files.
    """
    every = find_files(path, where, "any")
    kinds = {kind for file in every if (kind := kind_of(file)) is not None}
    return kinds.pop() if len(kinds) == 1 else None


def kind_of(file: Path) -> str | None:
    """Of what kind a file is by its ending; None where that doesn't tell."""
    ending = file.suffix.lower()
    compressed = ending in _COMPRESSED
    if compressed:
        ending = Path(file.stem).suffix.lower()
    kind = next((kind for kind, endings in _ENDINGS.items() if ending in endings), None)
    return None if compressed and kind not in ("csv", "json") else kind
