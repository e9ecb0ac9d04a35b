"""The leak checker on data sets with appended rows, as they are and corrupted on purpose."""

import check_shapes as shapes
import pytest

from finerank.checks.checker import check
from finerank.data.storage import read_batch


@pytest.fixture(scope="module")
def grown(new_workshop):
    """The workshop and the folders of a data set of each shape that has grown twice, made once."""
    made = {}

    def grown(shape):
        if shape not in made:
            workshop = new_workshop()
            made[shape] = (workshop, shapes.grow(workshop, shape))
        return made[shape]

    return grown


def statuses(report):
    return {each.name: each.status for each in report.checks}


@pytest.mark.parametrize("shape", shapes.GROWING)
def test_what_is_appended_passes(grown, shape):
    _, folders = grown(shape)
    for folder in folders[1:]:
        report = check(folder, sample=10_000)
        assert shapes.failed(report) == {}
        unproved = {name for name, status in statuses(report).items() if status != "passed"}
        allowed = {"numbers"} if shape == "random" else set()
        assert unproved <= allowed | {"time order before"} & {*statuses(report)}
        assert sum(report.examples.values()) == sum(
            read_batch(folder / split / "candidates.arrow").num_rows
            for split in ("train", "valid", "test")
        )
