import shutil
from pathlib import Path

import pytest

from finerank.errors import FinerankError
from finerank.folders import written_whole


def write(folder, content):
    with written_whole(folder, marker="m.json") as temporary:
        (temporary / "m.json").write_text(content)


def test_a_folder_is_written_and_replaced(tmp_path):
    for content in ("one", "two"):
        write(tmp_path / "deep" / "out", content)
        assert (tmp_path / "deep" / "out" / "m.json").read_text() == content
        assert [each.name for each in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out").stat().st_mode & 0o777 == 0o755


def test_the_old_folder_stands_until_the_new_one_does(tmp_path, monkeypatch):
    write(tmp_path / "out", "old")
    removed, remove = [], shutil.rmtree

    def watch(path, **options):
        removed.append((Path(path).name, (tmp_path / "out" / "m.json").read_text()))
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watch)
    write(tmp_path / "out", "new")
    assert [content for _, content in removed] == ["new"]
    assert removed[0][0] != "out"


def test_replaced_in_two_renames_where_the_system_cannot_swap(tmp_path, monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    for content in ("one", "two"):
        write(tmp_path / "out", content)
    assert (tmp_path / "out" / "m.json").read_text() == "two"
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path, error):
    write(tmp_path / "out", "old")

    def fail():
        with written_whole(tmp_path / "out", marker="m.json") as temporary:
            (temporary / "m.json").write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert (tmp_path / "out" / "m.json").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_not_ours_is_not_replaced(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.tex").touch()
    else:
        out.touch()
    with pytest.raises(
        FinerankError, match=r"one written by finerank .with m.json., found something"
    ):
        write(out, "new")
    assert out.exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", "new")
    assert (tmp_path / "out" / "m.json").exists()
