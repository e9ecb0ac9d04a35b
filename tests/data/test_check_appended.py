"""The leak checker on data sets with appended rows, as they are and corrupted on purpose."""

import os
import re
import shutil
from pathlib import Path

import check_shapes as shapes
import corruptions
import pytest

from finerank.checks.checker import check
from finerank.data.append import append
from finerank.data.storage import read_batch
from finerank.errors import FinerankError
from finerank.settings import SPLITS


@pytest.fixture(scope="module")
def grown(new_workshop):
    """The folders of a data set of each shape, and of those with a day more, made once."""
    made = {}

    def grown(shape):
        if shape not in made:
            made[shape] = shapes.grow(new_workshop(), shape)
        return made[shape]

    return grown


def by_name(report):
    return {each.name: each for each in report.checks}


@pytest.mark.parametrize("shape", shapes.GROWING)
def test_what_is_appended_passes(grown, shape):
    for days in (2, 3) if shape == "time" else (3,):
        folder = grown(shape)[days - 1]
        report = check(folder, sample=10_000)
        assert shapes.failed(report) == {}
        unproved = {name for name, each in by_name(report).items() if each.status != "passed"}
        random = {"random": {"numbers", "split"}, "thinned": {"numbers"}}
        allowed = {**random, "lists": {"time order before"}}.get(shape, set())
        assert unproved <= allowed
        what = f"the files of all {days} stages are there, as they were"
        assert by_name(report)["raw files"].what == what
        assert sum(report.examples.values()) == sum(
            read_batch(folder / split / "candidates.arrow").num_rows for split in SPLITS
        )


def swap(values):
    """The first and the last one: of what was prepared and of what was appended."""
    return [values[-1], *values[1:-1], values[0]]


def early(column, change):
    """The first value of the training requests that some condition holds for, changed."""

    def changed(values):
        place = next(place for place, value in enumerate(values) if value == column)
        values[place] = change
        return values

    return changed


CORRUPTIONS = {
    "windows see the present": (
        *("time", corruptions.see_the_present, {"windows seen", "history seen"}),
        r"expected steps before it, found one at \d+",
    ),
    "steps across the days are forgotten": (
        *("last", corruptions.forget_the_oldest, {"history seen"}),
        r"expected 2 steps from .*, found 1 step from",
    ),
    "the item of a step": (
        *("shares", corruptions.another_step_item("recent"), {"history recent"}),
        r"expected at \d+ the step item '\w' iid \d",
    ),
    "the steps of a list": (
        *(
            "lists",
            corruptions.column("events/before/events.arrow", "item", corruptions.shift),
        ),
        {"history before"},
        r"expected step \d \(iid, row of the item\) to be",
    ),
    "a test row in train": (
        *("time", corruptions.copy_from_test_to_train, {"rows", "split"}),
        r"expected no more than \d+ such examples in train .*, found \d+ \(whose rows .* in test",
    ),
    "a value that only test rows ever had": (
        *("time", corruptions.vocabulary("device", lambda v: [*v, "watch"])),
        {"vocabularies", "features"},
        "device: .*found 'watch', which they have 0 times",
    ),
    "ids that have not stayed": (
        *("time", corruptions.vocabulary("device", swap), {"vocabularies", "features"}),
        "device: .*found 'device 2', which they have 0 times",
    ),
    "a value of new training rows is missing": (
        *("time", corruptions.vocabulary("device", lambda v: v[:-1])),
        {"vocabularies", "features"},
        r"device: expected 'device 2', which training rows have \d+ times, found it missing",
    ),
    "an old row knows an id that came later": (
        *("time", corruptions.column("train/requests.arrow", "feature.device", early(0, 4))),
        {"features"},
        r"train, .*: expected device 0 by the log, found 4",
    ),
    "a mean of all days": (
        *("shares", corruptions.statistic("late", "mean"), {"numbers", "features"}),
        r"late: expected mean \d+\.\d+",
    ),
    "an item keeps what its table said of it": (
        *(
            "time",
            corruptions.column(
                "items/features.arrow", "price", lambda x: x[[0, 1, 1, *range(3, len(x))]]
            ),
        ),
        {"features"},
        "item 'b': expected price .* by the table of items, found",
    ),
    "an item that its table lists no more": (
        *(
            "time",
            corruptions.column(
                "items/features.arrow", "price", lambda x: x[[0, 2, *range(2, len(x))]]
            ),
        ),
        {"features"},
        "item 'a': expected price .* by the table of items, found",
    ),
    "a label of an old row": (
        *("time", corruptions.label("like", "train"), {"labels like"}),
        "train, .*expected [01], found [01]",
    ),
    "a negative that was met": (
        *("negatives", corruptions.negative_that_was_met(), {"negatives"}),
        "expected a negative that the user never met, found an item met at",
    ),
    "an item met is forgotten": (
        *("negatives fresh", corruptions.forget_a_pair, {"drawn in training"}),
        "expected this item among those that are never drawn for this user",
    ),
    "all items are drawn": (
        *("negatives fresh", corruptions.sampler("items.arrow", lambda w: w + 1)),
        {"drawn in training"},
        "expected an item of the training rows to draw from",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_is_corrupted_fails(grown, tmp_path, name):
    shape, corrupt, names, message = CORRUPTIONS[name]
    folder = shutil.copytree(grown(shape)[-1], tmp_path / "grown")
    corrupt(folder)
    found = shapes.failed(check(folder, sample=10_000))
    assert set(found) == names, found
    assert any(re.search(message, text) for text in found.values()), found


@pytest.fixture
def without(grown):
    """Checks the last data set of a shape while some raw files of its workshop are gone."""

    def without(shape, *names, corrupt=None, tmp_path=None):
        folder = last = grown(shape)[-1]
        if corrupt is not None:
            folder = shutil.copytree(last, tmp_path / "grown")
            corrupt(folder)
        hidden = [last.parent / f"{name}.parquet" for name in names]
        for file in hidden:
            file.rename(file.with_suffix(".hidden"))
        try:
            return check(folder, sample=10_000)
        finally:
            for file in hidden:
                file.with_suffix(".hidden").rename(file)

    return without


@pytest.mark.parametrize("shape", ["time", "moments", "random", "lists", "negatives before"])
def test_what_can_be_checked_without_the_old_logs(without, shape):
    report = without(shape, "log")
    assert shapes.failed(report) == {}
    files = by_name(report)["raw files"]
    assert files.status == "not checked"
    begins = "2024-04-10T00" if shape == "moments" else "100"
    assert re.fullmatch(
        rf".*log\.parquet: no such file; of 3 stages the last 2 are checked, from {begins}.* on",
        files.what,
    )
    assert by_name(report)["numbers"].status == "not checked"
    told = set() if shape == "random" else {"split"}
    for name in {"rows", "vocabularies", "features", "labels like", *told}:
        assert by_name(report)[name].status == "passed", name
    rows = int(re.search(r"each of ([\d,]+) examples", by_name(report)["rows"].what)[1])
    assert sum(report.examples.values()) == rows


def test_a_day_in_the_middle_is_gone(without):
    report = without("shares", "day1")
    assert "last 1 are checked, from 200" in by_name(report)["raw files"].what
    assert shapes.failed(report) == {}


@pytest.mark.parametrize(
    "name",
    [
        "windows see the present",
        "a value that only test rows ever had",
        "a value of new training rows is missing",
        "a test row in train",
        "a negative that was met",
        "the item of a step",
    ],
)
def test_what_fails_without_the_old_logs(without, tmp_path, name):
    shape, corrupt, names, _ = CORRUPTIONS[name]
    if name == "a negative that was met":  # by what is known of the new days
        corrupt = corruptions.negative_with("item", lambda _: 1)
    report = without(shape, "log", corrupt=corrupt, tmp_path=tmp_path)
    assert set(shapes.failed(report)) == names


def test_without_the_new_log_nothing_is_proved(grown, without):
    with pytest.raises(FinerankError, match=r"day2\.parquet: expected the file that .* no such"):
        without("time", "day2")
    with pytest.raises(FinerankError, match=r"later\.parquet: expected the file"):
        without("time", "later")


def test_a_table_that_was_written_anew(grown, without, tmp_path):
    report = without("time", "items")
    assert shapes.failed(report) == {}
    assert "items.parquet: no such file" in by_name(report)["raw files"].what
    assert "of 3 stages" not in by_name(report)["raw files"].what
    vocabularies, numbers = by_name(report)["vocabularies"], by_name(report)["numbers"]
    assert vocabularies.what.endswith("; iid, tags: but for stages whose table is gone")
    assert numbers.what.endswith("of the first stage; not price, whose table is gone")


def test_new_files_in_the_folder_of_the_old_ones(new_workshop):
    workshop = new_workshop()
    (workshop.folder / "logs").mkdir()
    workshop.write("logs/day0", shapes.day(0))
    settings = {**shapes.SHAPES["last"]}
    settings["log"] = {**settings["log"], "path": str(workshop.folder / "logs")}
    folder = workshop.prepare(settings).folder
    for number in (1, 2):
        split = {"valid_from": 100 * number + 40, "test_from": 100 * number + 50}
        log = workshop.write(f"logs/day{number}", shapes.day(number))
        folder = append(folder, log=log, out=workshop.folder / f"out{number}", split=split).folder
        assert check(folder).passed
    changed = Path(workshop.folder / "logs" / "day1.parquet")
    os.utime(changed, ns=(0, 0))
    what = by_name(check(folder))["raw files"].what
    assert re.search(r"day1\.parquet: one of [\d,]+ bytes, changed 1970.* the last 1 are", what)
