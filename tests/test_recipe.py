import copy

import pytest
import yaml

from finerank.errors import FinerankError
from finerank.recipe import Recipe

GOOD = {
    "log": {"path": "log.parquet", "user": "u", "item": "i", "time": "t"},
    "features": {
        "i": {"side": "item", "type": "id"},
        "hour": {"side": "context", "type": "number"},
        "dwell": {"side": "history", "type": "number"},
    },
    "histories": {"seen": {"features": ["i", "dwell"]}},
    "tasks": {"click": "click = 1"},
    "split": {"by": "time", "valid": 0.1, "test": 0.1},
}


def changed(key, value):
    content = copy.deepcopy(GOOD)
    *parents, last = key.split(".")
    target = content
    for parent in parents:
        target = target.setdefault(parent, {})
    if value is None:
        target.pop(last)
    else:
        target[last] = value
    return content


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("log.usr", "u", r"recipe: log\.usr: .*unknown key 'usr'\. Did you mean 'user'\?"),
        ("trainin", {}, r"unknown key 'trainin'. Did you mean 'training'\?"),
        ("features.i.typ", "id", r"features\.i\.typ: expected one of the keys side, type, "),
        ("split.vald", 0.1, r"split\.vald: .*Did you mean 'valid'\?"),
        ("features.i.side", "items", r"features\.i\.side: .*found 'items'"),
        ("features.i.side", None, r"features\.i\.side: expected this key, found nothing"),
        ("features.a b", {"side": "item", "type": "id"}, r"letters, digits, .*found 'a b'"),
        ("features.hour.separator", ",", "expected type: ids beside separator, found type: number"),
        ("features.hour.min_count", 3, "expected type: id or ids beside min_count"),
        ("histories.seen.features", ["j"], r"histories\.seen\.features: .*'j'\. .*There is: i, "),
        ("histories.seen.features", ["hour"], "of side item or history, found 'hour' of side cont"),
        ("histories.seen.max_length", 0, r"max_length: .*greater than or equal to 1, found 0"),
        ("log.user", None, r"log\.user: expected a column, for histories, found none"),
        ("log.time", None, r"log\.time: expected a column, for split\.by: time, found none"),
        ("log.path", None, r"either log\.path or split\.by: files, found neither"),
        ("users", {"path": "x"}, r"users\.key: expected this key"),
        ("split.valid", 0.0, r"split\.valid: .*greater than 0"),
        ("split.valid", 0.9, "shares that leave rows to train on, found 0.9, 0.1"),
        ("split.valid", None, "either valid and test .* found test"),
        ("split.test_from", 3, "either valid and test .* found test, test_from, valid"),
        ("split", {"by": "random", "valid": 0.5, "test": 0.5}, "leave rows to train on"),
        ("split", {"by": "last", "valid": 0}, r"split\.valid: .*greater than or equal to 1"),
        ("split", {"by": "tiem"}, "split: .*'random'"),
        ("tasks", {}, "tasks: .*at least 1"),
        ("tasks.click", {"label": "x", "weight": 0}, r"tasks\.click\.weight: .*greater than 0"),
        ("training", {"device": "gpu"}, "training.device: expected auto, cpu, .*, found 'gpu'"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(key, value, message):
    with pytest.raises(FinerankError, match=message):
        Recipe.parse(changed(key, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log: {path: [", "expected valid YAML, found while parsing"),
        ("", "expected a mapping with log, features, tasks, found an empty file"),
        ("- a", "found list"),
        ("log: {}\nlog: {}", "expected valid YAML, found .*'log' a second time"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(FinerankError, match=message) as error:
        Recipe.load(path)
    assert str(path) in str(error.value)


def test_a_missing_recipe(tmp_path):
    with pytest.raises(FinerankError, match=r"expected a recipe .YAML file., found no such file"):
        Recipe.load(tmp_path / "none.yaml")


def test_paths_start_at_the_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump(changed("items", {"path": "/data/items.csv", "key": "i"}))
    )
    recipe = Recipe.load(tmp_path / "r.yaml")
    assert recipe.log.path == str(tmp_path / "log.parquet")
    assert recipe.items.path == "/data/items.csv"
    files = {"by": "files", "train": "a.csv", "valid": "b.csv", "test": "c.csv"}
    content = changed("split", files)
    del content["log"]["path"]
    split = Recipe.parse(content).located(tmp_path).split
    assert (split.train, split.test) == (str(tmp_path / "a.csv"), str(tmp_path / "c.csv"))


def test_what_is_written_is_read_as_the_same_recipe():
    recipe = Recipe.parse(changed("model", {"name": "din", "hidden_units": [8, 4]}))
    assert Recipe.parse(yaml.safe_load(recipe.to_yaml())) == recipe
    assert recipe.model.options == {"hidden_units": [8, 4]}
    assert recipe.tasks["click"].label == "click = 1"
    assert recipe.space_of("i") == recipe.column_of("i") == "i"


def test_dates_may_stand_without_quotes():
    content = yaml.safe_load("{by: time, valid_from: 2024-01-01, test_from: 2024-02-01T12:00:00}")
    split = Recipe.parse(changed("split", content)).split
    assert (split.valid_from, split.test_from) == ("2024-01-01", "2024-02-01T12:00:00")
    large = {"by": "time", "valid_from": 2**53 + 1, "test_from": 2**60 + 1}
    assert Recipe.parse(changed("split", large)).split.valid_from == 2**53 + 1


def test_override():
    recipe = Recipe.parse(GOOD)
    changed_one = recipe.override(
        ["training.epochs=3", "model.hidden_units=[4, 2]", "tasks.click.weight=2"]
    )
    assert changed_one.training.epochs == 3
    assert changed_one.model.options == {"hidden_units": [4, 2]}
    assert changed_one.tasks["click"].weight == 2.0
    assert recipe.training.epochs == 10
    assert recipe.override([]) == recipe


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.epochs", "expected key.key=value, found no '='"),
        ("name.x=3", "'name', which is a value and has no keys"),
        ("training.epoch=3", r"--set: training\.epoch: .*Did you mean 'epochs'\?"),
        ("training.epochs=[", "expected a YAML value"),
    ],
)
def test_a_wrong_override(assignment, message):
    with pytest.raises(FinerankError, match=message):
        Recipe.parse(changed("name", "a")).override([assignment])
