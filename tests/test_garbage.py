import gc
import weakref

import pytest

from finerank.garbage import old_objects_left_alone


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self):
        self.itself = self


def test_what_is_made_meanwhile_is_collected():
    old, seen = Ring(), []
    weakref.finalize(old, seen.append, "old")
    with old_objects_left_alone():
        new = Ring()
        weakref.finalize(new, seen.append, "new")
        del old, new
        gc.collect()
        assert seen == ["new"]
    gc.collect()
    assert seen == ["new", "old"]


def test_an_error_changes_nothing():
    old, seen = Ring(), []
    weakref.finalize(old, seen.append, "old")
    with pytest.raises(ValueError, match="within"), old_objects_left_alone():
        raise ValueError("within")
    del old
    gc.collect()
    assert seen == ["old"]


def test_what_somebody_froze_stays_frozen():
    theirs, seen = Ring(), []
    weakref.finalize(theirs, seen.append, "theirs")
    gc.freeze()
    try:
        del theirs
        with old_objects_left_alone():
            new = Ring()
            weakref.finalize(new, seen.append, "new")
        del new
        gc.collect()
        assert seen == ["new"]
    finally:
        gc.unfreeze()
    gc.collect()
    assert seen == ["new", "theirs"]
