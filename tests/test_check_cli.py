"""`finerank check` on the command line: what it prints, and its exit codes."""

import json
import shutil

import pyarrow as pa
import pytest

from finerank.data.prepare import prepare
from finerank.data.storage import read_batch, write_columns
from finerank.recipe import Recipe


@pytest.fixture
def finerank(finerank, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    return finerank


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    rows = ["uid,iid,at,rating", *(f"{n % 7},{n % 5}[b],{n},{n % 6}" for n in range(60))]
    (folder / "log.csv").write_text("\n".join(rows))
    recipe = {
        "log": {"path": str(folder / "log.csv"), "user": "uid", "item": "iid", "time": "at"},
        "features": {"iid": {"side": "item", "type": "id"}},
        "histories": {"seen": {"features": ["iid"], "max_length": 3}},
        "tasks": {"like": "rating >= 4"},
        "split": {"by": "time", "valid_from": 40, "test_from": 50},
    }
    return prepare(Recipe.parse(recipe), folder / "prepared").folder


@pytest.fixture
def flipped(prepared, tmp_path):
    """The data set with the labels of the test set the other way round."""
    folder = shutil.copytree(prepared, tmp_path / "flipped")
    path = folder / "test" / "candidates.arrow"
    batch = read_batch(path)
    labels = pa.array(1 - batch.column("label.like").to_numpy())
    place = batch.schema.get_field_index("label.like")
    write_columns(path.with_suffix(".new"), batch.set_column(place, "label.like", labels))
    path.with_suffix(".new").rename(path)
    return folder


def test_all_that_passes(finerank, prepared):
    code, out, err = finerank("check", prepared, "--sample", 30, "--seed", 3)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    for name in ("rows", "split", "vocabularies", "numbers", "features"):
        assert [name, "passed"] in [line[:2] for line in lines]
    assert "history seen" in out
    assert "30 sampled examples: rating >= 4" in out
    assert "failed" not in out
    assert ["label", "rate", "like", "0.3000", "0.4000", "0.4000"] in lines
    assert "0 examples repeat another's user, item and time" in out
    assert "100.0% of the users are in several splits" in out
    assert "warning: iid drifts from train to test: population stability index 0." not in out


def test_a_check_that_fails(finerank, flipped):
    code, out, err = finerank("check", flipped)
    assert (code, err) == (1, "")
    assert "failed: labels like: test, example 0: user '" in out
    assert "[b]'" in out  # an id in square brackets is no markup
    assert "expected 0, found 1" in out or "expected 1, found 0" in out


@pytest.mark.parametrize("corrupted", [False, True])
def test_as_json(finerank, prepared, flipped, corrupted):
    code, out, _ = finerank("check", flipped if corrupted else prepared, "--json")
    report = json.loads(out)
    assert code == int(corrupted)
    assert report["passed"] is not corrupted
    status = {each["name"]: each["status"] for each in report["checks"]}
    assert status.pop("labels like") == ("failed" if corrupted else "passed")
    assert set(status.values()) == {"passed"}
    assert set(report) == {
        *("passed", "folder", "examples", "checks", "limits", "duplicates", "warnings"),
        *("users_in_several_splits", "label_rate", "unknown_rate", "drift"),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}"], "expected a prepared data set (with manifest.json), found none"),
        (["{data}", "--sample", "0"], "sample: expected at least one example, found 0"),
        (["{gone}"], "log.csv: expected the file that"),
    ],
)
def test_a_mistake_ends_with_one_clear_line(finerank, prepared, tmp_path, arguments, message):
    gone = shutil.copytree(prepared, tmp_path / "gone")
    manifest = (gone / "manifest.json").read_text().replace("check0", "nowhere")
    (gone / "manifest.json").write_text(manifest)
    places = {"tmp": tmp_path, "data": prepared, "gone": gone}
    code, out, err = finerank("check", *(each.format(**places) for each in arguments))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
