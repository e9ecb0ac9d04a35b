"""The bundle: one folder that turns raw rows into scores wherever finerank is installed.

``bundle.json`` names the model, the data's schema and the checksum of every other file:
``recipe.yaml``, ``encodings/`` (vocabularies and statistics), ``users/`` and ``items/`` (their
features, encoded), ``weights.safetensors``. Nothing in it is executable.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from finerank.data.entities import Entities
from finerank.data.schema import Schema
from finerank.errors import FinerankError
from finerank.models.registry import build
from finerank.recipe import Recipe
from finerank.settings import ModelSettings

if TYPE_CHECKING:
    from finerank.data.dataset import Dataset
    from finerank.data.row_encoder import RowEncoder
    from finerank.models.ranking_model import RankingModel

FORMAT = 4
MANIFEST = "bundle.json"
_FOLDERS = ("encodings", "users", "items")


@dataclass(frozen=True)
class Bundle:
    """A trained model with all that it needs to read raw rows.

    Attributes:
        dataset: the folder of the prepared data set that it was trained on; histories come from
            there if it is still there and still has this identity.
        sha256: file in the bundle -> its checksum.
    """

    recipe: Recipe
    schema: Schema
    model: RankingModel
    encoder: RowEncoder
    users: Entities | None
    items: Entities | None
    dataset: Path
    dataset_identity: dict[str, Any]
    sha256: dict[str, str]


def save_bundle(folder: Path, model: RankingModel, recipe: Recipe, dataset: Dataset) -> None:
    """Write a bundle into a new folder."""
    folder.mkdir(parents=True)
    for name in _FOLDERS:
        if (dataset.folder / name).exists():
            shutil.copytree(dataset.folder / name, folder / name)
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": FORMAT,
        "model": {"name": recipe.model.name, **recipe.model.options},
        "schema": dataset.schema.to_json(),
        "dataset": str(dataset.folder.resolve()),
        "dataset_identity": dataset.manifest["identity"],
        "sha256": {str(path.relative_to(folder)): _sha256(path) for path in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))


def check_fits(bundle: Bundle, dataset: Dataset) -> None:
    """Check that a data set speaks the bundle's ids and numbers, so that its scores mean something.

    Raises:
        FinerankError: it has other features, vocabularies or statistics.
    """
    encodings = {n: digest for n, digest in bundle.sha256.items() if n.startswith("encodings/")}
    same = dataset.schema == bundle.schema and all(
        (dataset.folder / name).is_file() and _sha256(dataset.folder / name) == digest
        for name, digest in encodings.items()
    )
    if not same:
        raise FinerankError(
            str(dataset.folder),
            expected="the features and vocabularies that the model was trained with",
            found="others",
            fix="Train on this data set, or score its raw rows with `finerank predict`.",
        )


def find_bundle(path: str | Path) -> Path:
    """The bundle that a path means: itself, or the one in a run's folder.

    Raises:
        FinerankError: there is none.
    """
    for folder in (Path(path), Path(path) / "bundle"):
        if (folder / MANIFEST).is_file():
            return folder
    raise FinerankError(str(path), expected="a bundle or a run's folder", found="neither")


def load_bundle(path: str | Path) -> Bundle:
    """Read a bundle, checking every file against its checksum.

    Raises:
        FinerankError: it isn't a bundle, is of another format, or a file is missing or changed.
    """
    # Who writes one, as training does, needs no pyarrow, 40 MB.
    from finerank.data.encoding import load_encodings  # noqa: PLC0415
    from finerank.data.row_encoder import RowEncoder  # noqa: PLC0415

    folder = find_bundle(path)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except ValueError as error:
        where = str(folder / MANIFEST)
        raise FinerankError(where, expected="a whole JSON file", found=str(error)) from error
    if not isinstance(manifest, dict):
        where, found = str(folder / MANIFEST), type(manifest).__name__
        raise FinerankError(where, expected="the manifest of a bundle", found=f"a {found}")
    if manifest.get("format") != FORMAT:
        raise FinerankError(
            str(folder), expected=f"format {FORMAT}", found=f"format {manifest.get('format')}"
        )
    for name, digest in manifest["sha256"].items():
        file = folder / name
        if not file.is_file() or _sha256(file) != digest:
            raise FinerankError(
                str(file),
                expected="the file as it was written",
                found="a truncated or changed one" if file.is_file() else "no file",
                fix="Copy the bundle again, whole.",
            )
    schema = Schema.from_json(manifest["schema"])
    model = build(schema, ModelSettings(**manifest["model"]))
    try:
        model.load_state_dict(load_file(folder / "weights.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        raise FinerankError(
            str(folder / "weights.safetensors"),
            expected=f"the weights of {manifest['model']['name']}",
            found=str(error).splitlines()[0],
        ) from error
    users, items = (
        Entities.load(folder / home) if (folder / home).exists() else None
        for home in ("users", "items")
    )
    return Bundle(
        recipe=Recipe.load(folder / "recipe.yaml"),
        schema=schema,
        model=model.eval(),
        encoder=RowEncoder(
            load_encodings(folder / "encodings", schema),
            users=None if users is None else users.keys,
            items=None if items is None else items.keys,
        ),
        users=users,
        items=items,
        dataset=Path(manifest["dataset"]),
        dataset_identity=manifest["dataset_identity"],
        sha256=manifest["sha256"],
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
