"""Where MovieLens-100K comes from, and the demo on it: small made-up files and no network."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from finerank import demo, movielens
from finerank.demo import run_demo
from finerank.errors import FinerankError
from finerank.movielens import find_movielens
from finerank.progress import silent
from finerank.recipe import Recipe

ATOMIC = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "196\t242\t3\t881250949\n186\t302\t4\t891717742\n",
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "186\t39\tF\texecutive\t00000\n196\t49\tM\twriter\t55105\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    '242\tKolya\t1996\tComedy\n302\t"L.A." Confidential\t1997\tCrime Mystery\n',
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FINERANK_DATA", raising=False)
    return tmp_path / "cache" / "finerank"


def write_atomic(folder):
    folder.mkdir(parents=True)
    for name, content in ATOMIC.items():
        (folder / name).write_text(content)


def assert_converted(folder):
    interactions = pq.read_table(folder / "interactions.parquet")
    assert interactions.to_pylist() == [
        {"user_id": 196, "item_id": 242, "rating": 3, "timestamp_s": 881250949},
        {"user_id": 186, "item_id": 302, "rating": 4, "timestamp_s": 891717742},
    ]
    assert interactions.schema.field("timestamp_s").type == pa.int64()
    users = pq.read_table(folder / "users.parquet")
    assert users.column_names == ["user_id", "age", "gender", "occupation", "zip_code"]
    items = pq.read_table(folder / "items.parquet")
    assert items["title"].to_pylist() == ["Kolya", '"L.A." Confidential']
    assert items["genres"].to_pylist() == ["Comedy", "Crime Mystery"]


@pytest.mark.parametrize("inside", ["", "ml-100k", "ml100k"])
def test_atomic_files_are_converted(tmp_path, monkeypatch, cache, inside):
    write_atomic(tmp_path / "local" / inside)
    monkeypatch.setenv("FINERANK_DATA", str(tmp_path / "local"))
    folder = find_movielens()
    assert cache in folder.parents  # nothing is written beside the person's own files
    assert_converted(folder)


def test_parquet_files_are_used_as_they_are(tmp_path, monkeypatch):
    local = tmp_path / "local"
    local.mkdir()
    for name in movielens.FILES:
        pq.write_table(pa.table({"a": [1]}), local / name)
    monkeypatch.setenv("FINERANK_DATA", str(local))
    assert find_movielens() == local


def test_a_folder_without_the_files(tmp_path, monkeypatch):
    write_atomic(tmp_path / "local")
    (tmp_path / "local" / "ml-100k.user").unlink()
    monkeypatch.setenv("FINERANK_DATA", str(tmp_path / "local"))
    with pytest.raises(FinerankError, match="FINERANK_DATA: expected a folder with interactions"):
        find_movielens()


@pytest.fixture
def pip(monkeypatch):
    """A pip that knows one wheel; how it was called."""
    calls = []

    def run(command, *, env, **options):
        calls.append((command, env))
        destination = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(destination / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
            for name, content in ATOMIC.items():
                wheel.writestr(f"recbole/dataset_example/ml-100k/{name}", content)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_the_package_is_downloaded_once_and_never_installed(pip, cache, monkeypatch):
    monkeypatch.setenv("PIP_CONSTRAINT", "constraints.txt")
    folder = find_movielens()
    assert_converted(folder)
    assert find_movielens() == folder == cache / "ml100k"
    ((command, environment),) = pip
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[-1] == "recbole==1.2.1"
    assert "PIP_CONSTRAINT" not in environment  # it may name another version


@pytest.mark.parametrize("code", [0, 1])
def test_a_download_that_fails(monkeypatch, cache, code):
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, code)
    )
    assert find_movielens() is None
    assert not (cache / "ml100k").exists()


def test_half_a_cache_is_filled_again(pip, cache):
    folder = find_movielens()
    (folder / "users.parquet").unlink()
    assert_converted(find_movielens())
    assert len(pip) == 2


def test_files_appear_whole(monkeypatch, tmp_path):
    """A conversion killed in the middle leaves no file under its final name."""

    def fails(table, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", fails)
    with pytest.raises(KeyboardInterrupt):
        movielens._convert({"users": ATOMIC["ml-100k.user"].encode()}, tmp_path)
    assert not (tmp_path / "users.parquet").exists()


def test_reading_is_by_tabs_alone():
    """A quotation mark in a title is a part of it."""
    content = 'item_id:token\tmovie_title:token_seq\n1\t"Open, quote\n2\tOther\n'
    parse = pa.csv.ParseOptions(delimiter="\t", quote_char=False)
    assert pa.csv.read_csv(io.BytesIO(content.encode()), parse_options=parse).num_rows == 2


USERS, ITEMS, ROWS = 30, 40, 3_000


@pytest.fixture
def console():
    return Console(record=True, width=160, file=None, quiet=False)


@pytest.fixture
def quick(monkeypatch):
    """One epoch of small models; the recipes are those of the package."""
    load = Recipe.load
    small = ["training.epochs=1", "model.embedding_dim=2", "model.hidden_units=[4]"]
    monkeypatch.setattr(Recipe, "load", lambda path: load(path).override(small))


@pytest.fixture
def local(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    tables = {
        "interactions": {
            "user_id": random.integers(1, USERS + 1, ROWS),
            "item_id": random.integers(1, ITEMS + 1, ROWS),
            "rating": random.integers(1, 6, ROWS),
            "timestamp_s": 880_000_000 + random.integers(0, 10**6, ROWS),
        },
        "users": {
            "user_id": np.arange(1, USERS + 1),
            "age": random.integers(9, 80, USERS),
            "gender": random.choice(["F", "M"], USERS),
            "occupation": random.choice(["writer", "student"], USERS),
        },
        "items": {
            "item_id": np.arange(1, ITEMS + 1),
            "title": [f"[rec] {each} (1997)" for each in range(1, ITEMS + 1)],
            "release_year": ["1997"] * (ITEMS - 1) + ["V"],
            "genres": random.choice(["Comedy", "Crime Mystery"], ITEMS),
        },
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    monkeypatch.setenv("FINERANK_DATA", str(folder))
    return folder


def test_from_movielens_to_ten_ranked_films(local, quick, tmp_path, console):
    out = tmp_path / "out"
    run_demo(out, console, silent)
    text = console.export_text()
    assert f"MovieLens-100K from {local}" in text.replace("\n", "")
    assert "3,000 rows, 30 users, 40 items" in text
    assert "samples/s" in text
    assert text.count("[rec] ") >= 10 + 1  # titles as they are: ten ranked, some in the history
    lines = [line.split() for line in text.splitlines()]
    assert [line[0] for line in lines if line and line[0] in ("dnn", "din")] == ["dnn", "din"]
    scores = [float(line[-2]) for line in lines if line and line[-1] in ("yes", "no")]
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)
    for model in ("dnn", "din"):
        assert (out / model / "bundle" / "bundle.json").is_file()
    run_demo(out, console, silent)  # again, into the same folder
    assert "(prepared before)" in console.export_text()


def test_users_with_few_films(local, quick, tmp_path, console):
    """Fewer than ten candidates of any user in the test period."""
    path = local / "interactions.parquet"
    pq.write_table(pq.read_table(path).slice(0, 400), path)
    run_demo(tmp_path / "out", console, silent)
    lines = [line.split() for line in console.export_text().splitlines()]
    shown = [line for line in lines if line and line[-1] in ("yes", "no")]
    assert 1 <= len(shown) < 10  # and none of another user's


def test_a_simulated_log_where_movielens_is_not_to_be_had(quick, tmp_path, monkeypatch, console):
    monkeypatch.setattr(demo, "find_movielens", lambda: None)
    simulate = demo.simulate
    monkeypatch.setattr(
        demo, "simulate", lambda **sizes: simulate(**{**sizes, "users": 40, "items": 150})
    )
    run_demo(tmp_path / "out", console, silent)
    text = console.export_text()
    assert "The demo goes on with a simulated log." in " ".join(text.split())
    assert "What user 2" in text
