"""Files of rows to score and of what users did are read as the log was before training."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finerank.ranker import Ranker
from finerank.run import train

RECIPE = """
name: texts
log: {{path: {path}, user: uid, item: iid, time: at{more}}}
features:
  uid: {{side: user, type: id}}
  iid: {{side: item, type: id}}
  shop: {{side: context, type: id}}
histories:
  seen: {{features: [iid], max_length: 3}}
tasks: {{click: click}}
split: {{by: time, valid: 0.2, test: 0.2}}
model: {{name: din, embedding_dim: 4, hidden_units: [8], attention_hidden_units: [4]}}
training: {{epochs: 2, batch_size: 32, learning_rate: 0.1}}
"""
COLUMNS = ["uid", "iid", "shop", "at", "click"]


def log():
    """Rows whose items have more digits than a number holds."""
    random = np.random.default_rng(0)
    return [
        (
            f"{random.integers(1, 9):03d}",
            f"{10**19 + int(random.integers(1, 9))}",
            f"{random.integers(1, 4):02d}",
            str(at),
            str(int(random.integers(2))),
        )
        for at in range(200)
    ]


def write(path, rows, separator=",", header=True):
    lines = [separator.join(row) for row in [*([COLUMNS] if header else []), *rows]]
    path.write_text("\n".join(lines) + "\n")
    return path


def arrow(rows):
    table = pa.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
    return table.set_column(3, "at", table["at"].cast(pa.int64()))


@pytest.fixture(
    scope="module",
    params=[
        ("log.csv", "", {}),
        ("log.events", ", format: csv", {}),
        ("log.txt", ', columns: [uid, iid, shop, at, click], separator: "|"', {"header": False}),
    ],
    ids=["csv", "format", "no header"],
)
def trained(request, tmp_path_factory):
    """A model, how the files of its log are written, and a folder."""
    name, more, options = request.param
    folder = tmp_path_factory.mktemp("texts")
    options = {**options, **({"separator": "|"} if "separator" in more else {})}
    write(folder / name, log(), **options)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(path=name, more=more))
    return train(recipe, folder / "run").folder, options, folder / name


def scores(table):
    return np.array(table["score_click"].to_pylist())


def test_rows_are_read_as_the_log_is(trained):
    run, options, path = trained
    ranker, rows = Ranker.load(run), log()[-20:]
    expected = scores(ranker.predict(arrow(rows)))
    assert expected.std() > 1e-3
    found = ranker.predict(write(path.with_stem("rows"), rows, **options))
    np.testing.assert_array_equal(scores(found), expected)
    assert found["uid"].to_pylist() == [row[0] for row in rows]
    pq.write_table(arrow(rows), path.with_name("rows.parquet"))  # its ending tells
    found = ranker.predict(path.with_name("rows.parquet"))
    np.testing.assert_array_equal(scores(found), expected)


def test_histories_are_read_as_the_log_is(trained):
    run, options, path = trained
    others = [
        (user, item, *rest)
        for (user, *rest), (_, item, *_) in zip(
            [(r[0], *r[2:]) for r in log()], reversed(log()), strict=True
        )
    ]
    expected = scores(Ranker.load(run, history=arrow(others)).predict(arrow(log()[-20:])))
    given = write(path.with_stem("past"), others, **options)
    ranker = Ranker.load(run, history=given)
    np.testing.assert_array_equal(scores(ranker.predict(arrow(log()[-20:]))), expected)
    without = Ranker.load(run, history=arrow(others[:1])).predict(arrow(log()[-20:]))
    assert np.abs(scores(without) - expected).max() > 1e-4
