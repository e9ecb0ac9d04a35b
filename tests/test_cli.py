"""The command line: the whole path, what it prints, and how it fails."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer.main

import finerank
from finerank import cli
from finerank.cli.scores import _as_time
from finerank.data.simulator import simulate, write
from finerank.run import train

COMMANDS = {
    "recipe": {"log", "--users", "--items", "--for"},
    "prepare": {"recipe", "--out", "--set", "--memory", "--engine", "--spark-master"},
    "check": {"folder", "--sample", "--seed", "--json"},
    "train": {"source", "--out", "--model", "--set", "--from", "--only-new"},
    "append": {
        "prepared",
        "log",
        "--out",
        "--users",
        "--items",
        "--split",
        "--valid-from",
        "--test-from",
        "--memory",
    },
    "evaluate": {"run", "--split", "--data", "--json"},
    "predict": {"bundle", "rows", "--out", "--history"},
    "rank": {
        "bundle",
        "--user",
        "--candidates",
        "--history",
        "--time",
        "--context",
        "--by",
        "--json",
    },
    "models": set(),
    "demo": {"--out"},
}
PROGRAM = [sys.executable, "-c", "from finerank.cli import main; main()"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A simulated log with the recipe that the package ships, made small."""
    folder = tmp_path_factory.mktemp("simulated")
    simulation = simulate(
        users=60, requests_per_user=10, candidates_per_request=3, items=50, categories=10, seed=0
    )
    write(simulation, folder / "raw")
    shutil.copy(Path(finerank.__file__).parent / "recipes" / "simulated.yaml", folder)
    return folder


SMALL = ("--set", "training.epochs=1", "--set", "model.embedding_dim=4")


def test_commands_and_their_options():
    """A change here breaks someone's scripts."""
    group = typer.main.get_command(cli.app)
    found = {}
    for name, command in group.commands.items():
        options = [p for p in command.params if p.name != "help"]
        found[name] = {p.opts[0] for p in options}
    assert found == COMMANDS


def test_the_whole_path(finerank, simulated, tmp_path):
    code, out, _ = finerank("prepare", simulated / "simulated.yaml", "--out", tmp_path / "data")
    assert code == 0
    assert "1,800 rows in" in out
    code, out, _ = finerank("prepare", simulated / "simulated.yaml", "--out", tmp_path / "data")
    assert "nothing changed, nothing done" in out
    run = tmp_path / "run"
    settings = (*SMALL, "--set", "training.compile=true")
    code, out, _ = finerank("train", tmp_path / "data", "--out", run, "--model", "dnn", *settings)
    assert code == 0
    assert "dnn:" in out
    assert "warning: training.compile is for GPUs" in out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["training"]["epochs"] == 1
    assert not metrics["training"]["compiled"]

    code, out, _ = finerank("evaluate", run, "--json")
    assert json.loads(out) == metrics["test"]
    code, out, _ = finerank("evaluate", run, "--split", "valid")
    assert f"{metrics['valid']['click']['auc']:.4f}" in out

    rows = simulated / "raw" / "log.parquet"
    code, out, _ = finerank("predict", run, rows, "--out", tmp_path / "scores" / "s.parquet")
    assert code == 0
    scores = pq.read_table(tmp_path / "scores" / "s.parquet")
    assert scores.column_names == ["user_id", "item_id", "timestamp_s", "score_click"]
    assert scores.num_rows == 1800
    assert [p.name for p in (tmp_path / "scores").iterdir()] == ["s.parquet"]

    last = scores.slice(1799).to_pylist()[0]
    code, out, _ = finerank(
        "rank",
        run,
        "--user",
        last["user_id"],
        "--candidates",
        f"{last['item_id']}, 5",
        "--time",
        last["timestamp_s"],
        "--json",
    )
    ranked = {each["item"]: each for each in json.loads(out)}
    assert set(ranked) == {str(last["item_id"]), "5"}
    one = ranked[str(last["item_id"])]
    assert list(one) == ["item", "title", "known", "scores"]
    assert one["known"]
    assert not ranked["5"]["known"]
    assert one["scores"]["click"] == pytest.approx(last["score_click"], abs=1e-6)


def test_a_drafted_recipe_can_be_prepared(finerank, simulated, tmp_path):
    raw = simulated / "raw"
    code, out, _ = finerank(
        "recipe",
        raw / "log.parquet",
        "--users",
        raw / "users.parquet",
        "--items",
        raw / "items.parquet",
    )
    assert code == 0
    (tmp_path / "drafted.yaml").write_text(out)
    code, _, err = finerank("prepare", tmp_path / "drafted.yaml", "--out", tmp_path / "data")
    assert (code, err) == (0, "")


def test_rank_prints_titles_as_they_are(finerank, shop):
    """A title in square brackets is no markup."""
    code, out, _ = finerank(
        "rank",
        shop.run,
        "--user",
        "u1",
        "--candidates",
        "1003,77",
        "--by",
        "cart",
        "--context",
        "device=desk",
        "--context",
        "price=2.5",
        "--time",
        "1900000",
    )
    assert code == 0
    assert "Thing [b]3" in out
    assert "(never seen)" in out
    assert "cart" in out


def test_history_in_place_of_the_data_set(finerank, shop, tmp_path):
    rows = shop.log.slice(2000, 30)
    pq.write_table(rows, tmp_path / "rows.parquet")
    pq.write_table(shop.log.slice(0, 6), tmp_path / "other.parquet")
    scores = []
    for history in (shop.folder / "raw" / "log.parquet", tmp_path / "other.parquet"):
        code, _, _ = finerank(
            "predict",
            shop.run,
            tmp_path / "rows.parquet",
            "--history",
            history,
            "--out",
            tmp_path / "s.parquet",
        )
        assert code == 0
        scores.append(pq.read_table(tmp_path / "s.parquet")["score_click"].to_pylist())
    code, _, _ = finerank(
        "predict", shop.run, tmp_path / "rows.parquet", "--out", tmp_path / "s.parquet"
    )
    assert scores[0] == pytest.approx(
        pq.read_table(tmp_path / "s.parquet")["score_click"].to_pylist(), abs=1e-6
    )
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)


def test_models_are_listed(finerank):
    code, out, _ = finerank("models")
    assert code == 0
    assert "Deep Interest Network" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "no.yaml", "--out", "{tmp}/d"], "no.yaml: expected a recipe (YAML file)"),
        (["train", "no.yaml", "--out", "{tmp}/r"], "no.yaml: expected a recipe (YAML file)"),
        (
            ["train", "{recipe}", "--out", "{tmp}/r", "--model", "dinn"],
            "expected a named model, found 'dinn'",
        ),
        (["train", "{recipe}", "--out", "{tmp}/r", "--set", "training.epoch=1"], "epochs"),
        (["train", "{recipe}", "--out", "{tmp}/r", "--set", "epochs"], "expected key.key=value"),
        (["train", "{recipe}", "--out", "{tmp}", *SMALL], "found something else"),
        (["evaluate", "{tmp}"], "expected a bundle or a run's folder, found neither"),
        (["evaluate", "{run}", "--split", "tset"], "--split: expected one of train, valid, test"),
        (["evaluate", "{run}", "--data", "{tmp}"], "expected a prepared data set"),
        (["predict", "{run}", "{tmp}/no.csv", "--out", "{tmp}/s"], "found no file"),
        (["predict", "{run}", "{tmp}/some.csv", "--out", "{tmp}/s"], "a column 'item_id'"),
        (["predict", "{run}", "{log}", "--out", "{tmp}/folder"], "Is a directory"),
        (["rank", "{run}", "--user", "u1", "--candidates", ","], "expected at least one item"),
        (["rank", "{run}", "--user", "u1", "--candidates", "1", "--time", "noon"], "--time noon"),
        (["rank", "{run}", "--user", "u", "--candidates", "1", "--context", "x"], "no '='"),
        (["recipe", "{tmp}/no.csv"], "found no file"),
    ],
)
def test_a_mistake_ends_with_one_clear_line(finerank, shop, tmp_path, arguments, message):
    (tmp_path / "some.csv").write_text("user_id,time_s\nu1,5\n")
    (tmp_path / "folder").mkdir()
    places = {
        "tmp": tmp_path,
        "recipe": shop.recipe,
        "run": shop.run,
        "log": shop.folder / "raw" / "log.parquet",
    }
    before = sorted(p.name for p in tmp_path.iterdir())
    code, out, err = finerank(*(each.format(**places) for each in arguments))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_wrong_option_is_refused(finerank):
    code, _, err = finerank("train", "recipe.yaml", "--out", "run", "--epochs", "3")
    assert code == 2
    assert "--epochs" in err


def test_the_program_fails_with_a_clear_line(tmp_path):
    done = subprocess.run(
        [*PROGRAM, "train", "no.yaml", "--out", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no.yaml: expected a recipe (YAML file), found no such")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_the_one_before(shop, tmp_path):
    """Killed in the middle of training, as `kill -9` or a lost machine would."""
    run = shutil.copytree(shop.run, tmp_path / "run")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    prepared = shop.folder / ".finerank" / "shop"
    command = [*PROGRAM, "train", str(prepared), "--out", str(run), "--set"]
    endless = ["training.epochs=100000", "--set", "training.patience=100000"]
    process = subprocess.Popen([*command, *endless], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".run-*")):  # it is writing, and training
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    train(prepared, run, overrides=["training.epochs=1"])
    assert json.loads((run / "metrics.json").read_text())["training"]["epochs"] == 1


def test_times_of_the_command_line():
    assert _as_time("1704067200") == 1704067200
    assert _as_time("1.5") == 1.5
    assert _as_time("2024-05-01T12:00").isoformat() == "2024-05-01T12:00:00"
    assert _as_time(None) is None


def test_predict_keeps_the_file_before_when_it_fails(finerank, shop, tmp_path, monkeypatch):
    kept = tmp_path / "s.parquet"
    kept.write_bytes(b"before")

    def full(table, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    rows = tmp_path / "rows.arrow"
    with pa.OSFile(str(rows), "wb") as sink, pa.ipc.new_file(sink, shop.log.schema) as writer:
        writer.write_table(shop.log.slice(0, 5))
    code, _, err = finerank("predict", shop.run, rows, "--out", kept)
    assert code == 2
    assert "No space left on device" in err
    assert kept.read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.arrow", "s.parquet"]
