"""A bundle gives back the same model, or says which file is broken."""

import json
import shutil

import pytest
import torch

from finerank.bundle import MANIFEST, check_fits, load_bundle, save_bundle
from finerank.data.dataset import Dataset
from finerank.data.prepare import prepare
from finerank.errors import FinerankError
from finerank.evaluation.evaluator import score
from finerank.recipe import Recipe


@pytest.fixture(scope="module")
def dataset(shop):
    return Dataset(load_bundle(shop.run).dataset)


@pytest.fixture
def copy(shop, tmp_path):
    return shutil.copytree(shop.run / "bundle", tmp_path / "bundle")


def files_of(bundle):
    return sorted(str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file())


def test_scores_are_the_same_to_the_bit(shop, dataset, tmp_path):
    bundle, test = load_bundle(shop.run), dataset.split("test")
    with torch.no_grad():
        for parameter in bundle.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_bundle(tmp_path / "again", bundle.model, bundle.recipe, dataset)
    again = load_bundle(tmp_path / "again")
    expected = score(bundle.model, test)
    assert expected.std() > 0.01
    assert (score(again.model, test) == expected).all()
    assert not again.model.training
    assert again.recipe == bundle.recipe
    assert again.schema == bundle.schema
    assert again.dataset_identity == dataset.manifest["identity"]


def test_holds_what_it_says_and_nothing_that_runs(shop):
    """The list is a contract: another file, or another name, is another format."""
    assert files_of(shop.run / "bundle") == [
        "bundle.json",
        "encodings/category.arrow",
        "encodings/device.arrow",
        "encodings/item_id.arrow",
        "encodings/numbers.json",
        "encodings/tags.arrow",
        "encodings/user_id.arrow",
        "items/features.arrow",
        "items/keys.arrow",
        "recipe.yaml",
        "users/features.arrow",
        "users/keys.arrow",
        "weights.safetensors",
    ]
    manifest = json.loads((shop.run / "bundle" / MANIFEST).read_text())
    assert list(manifest) == [
        "format",
        "model",
        "schema",
        "dataset",
        "dataset_identity",
        "sha256",
    ]
    assert sorted([*manifest["sha256"], MANIFEST]) == files_of(shop.run / "bundle")


@pytest.mark.parametrize("name", ["weights.safetensors", "items/keys.arrow", "recipe.yaml"])
def test_a_broken_file_is_named(copy, name):
    whole = (copy / name).read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for content, found in (
        (whole[:-1], "a truncated or changed one"),
        (b"", "a truncated or changed one"),
        (bytes(changed), "a truncated or changed one"),
        (None, "no file"),
    ):
        (copy / name).unlink(missing_ok=True)
        if content is not None:
            (copy / name).write_bytes(content)
        with pytest.raises(FinerankError) as caught:
            load_bundle(copy)
        assert caught.value.where == str(copy / name)
        assert caught.value.found == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 1, "mod', r"bundle\.json: expected a whole JSON file"),
        (b"\xff\xfe\x00\x01", r"bundle\.json: expected a whole JSON file"),
        ("[]", r"bundle\.json: expected the manifest of a bundle, found a list"),
        ("{}", "expected format 4, found format None"),
        ('{"format": 1}', "expected format 4, found format 1"),
    ],
)
def test_a_broken_manifest(copy, content, message):
    (copy / MANIFEST).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FinerankError, match=message):
        load_bundle(copy)


def test_weights_of_another_model(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["model"]["hidden_units"] = [8, 5]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(FinerankError, match=r"weights\.safetensors: expected the weights of din"):
        load_bundle(copy)


def test_no_bundle(tmp_path):
    with pytest.raises(FinerankError, match="expected a bundle or a run's folder, found neither"):
        load_bundle(tmp_path)


def test_loads_without_its_data_set(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["dataset"] = "/nowhere"
    (copy / MANIFEST).write_text(json.dumps(manifest))
    assert load_bundle(copy).items.keys.decode([1]) == [1000]


def test_a_data_set_with_other_ids_does_not_fit(shop, dataset, tmp_path):
    """Its ids are numbers of other things: scores on it would mean nothing."""
    bundle = load_bundle(shop.run)
    check_fits(bundle, dataset)
    moved = shutil.copytree(dataset.folder, tmp_path / "moved")
    check_fits(bundle, Dataset(moved))
    earlier = Recipe.load(shop.recipe).override(["split.valid_from=400000"])
    other = Dataset(prepare(earlier, tmp_path / "other").folder)
    with pytest.raises(FinerankError, match="the features and vocabularies that the model was"):
        check_fits(bundle, other)
