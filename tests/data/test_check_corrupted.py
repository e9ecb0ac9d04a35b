"""The leak checker on prepared data that is corrupted on purpose: every claim can fail."""

import re
import shutil

import check_shapes as shapes
import pytest
from corruptions import (
    another_step_feature,
    another_step_item,
    another_step_time,
    column,
    copy_from_test_to_train,
    flip,
    forget_a_pair,
    forget_the_oldest,
    ignore_the_age,
    keep_the_oldest,
    label,
    look_at_another_user,
    mean_of_all,
    negative_that_was_met,
    negative_with,
    sampler,
    see_the_present,
    shift,
    statistic,
    vocabulary,
)

from finerank.checks.checker import check

CORRUPTIONS = {
    "windows see the present": (
        *("time", see_the_present, {"windows seen", "history seen"}),
        r"train, request \d+: user '\d+' at \d+: expected steps before it, found one at \d+",
    ),
    "the oldest steps are kept": (
        *("time", keep_the_oldest, {"history seen"}),
        r"expected 2 steps from \d+ to \d+, found 2 steps from \d+ to \d+",
    ),
    "a step is forgotten": (
        *("last", forget_the_oldest, {"history seen"}),
        r"expected 2 steps from .*, found 1 step from",
    ),
    "steps are too old": (
        *("shares", ignore_the_age, {"history recent"}),
        r"expected (no|\d) steps?.*, found \d step",
    ),
    "another user's steps": (
        *("random", look_at_another_user, {"windows seen", "history seen"}),
        r"expected a window within that user's events \d+ to \d+, found 0 to 1",
    ),
    "the item of a step": (
        *("events last", another_step_item("clicked"), {"history clicked"}),
        r"expected at \d+ the step item '\w' iid \d( or .*)?, found item '\w' iid",
    ),
    "the order of events": (
        *("time", another_step_time, {"windows seen", "history seen"}),
        "expected events in order of time, found one at -1 behind one at",
    ),
    "a feature of a step": (
        *("time", another_step_feature, {"history liked"}),
        r"item '\w' dwell",
    ),
    "a test row in train, by time": (
        *("time", copy_from_test_to_train, {"rows", "split"}),
        r"train, request \d+: user '\d+' at \d+: expected a time before the first of valid, 4\d",
    ),
    "a test row in train, by last": (
        *("last", copy_from_test_to_train, {"rows", "split"}),
        r"expected a time before that user's first of \w+, \d+, found it at or after that",
    ),
    "a test row in train, by files": (
        *("files", copy_from_test_to_train, {"rows"}),
        r"expected no more than \d+ such examples in train .*, found \d+ \(whose rows .* in test",
    ),
    "a test row in train, drawn": (
        *("random", copy_from_test_to_train, {"rows"}),
        r"expected no more than \d such examples in train",
    ),
    "a test row in train, with negatives": (
        *("negatives", copy_from_test_to_train, {"rows", "split", "negatives"}),
        "whose rows are ",
    ),
    "an example that the log doesn't have": (
        *(
            "shares",
            column("test/requests.arrow", "time", lambda t: t + 1000),
            {"rows", "history recent"},
        ),
        r"expected no more than 0 such examples in test .* \(which no row of the log has\)",
    ),
    "an item met is forgotten": (
        *("negatives fresh", forget_a_pair, {"drawn in training"}),
        "expected this item among those that are never drawn for this user",
    ),
    "an item met is met later": (
        *("negatives fresh", sampler("met.arrow", lambda t: t + 5), {"drawn in training"}),
        "expected this item among those that are never drawn for this user",
    ),
    "all items are drawn": (
        *("negatives fresh", sampler("items.arrow", lambda w: w + 1), {"drawn in training"}),
        "expected an item of the training rows to draw from",
    ),
    "a value that only test rows have": (
        *("time", vocabulary("device", lambda v: [*v, "watch"]), {"vocabularies", "features"}),
        "device: expected values that training rows have at least 1 time, found 'watch', "
        "which they have 0 times",
    ),
    "a tag that only other items have": (
        *("time", vocabulary("tags", lambda v: [*v, "never"]), {"vocabularies"}),
        "tags: .*found 'never', which they have 0 times",
    ),
    "a value of no row, drawn": (
        *("random", vocabulary("device", lambda v: [*v, "hat"]), {"vocabularies"}),
        "device: .*found 'hat', which they have 0 times",
    ),
    "a value is missing": (
        *("last", vocabulary("done", lambda v: v[:-1]), {"vocabularies"}),
        r"done: expected '\d', which training rows have \d+ times, found it missing",
    ),
    "a value too many": (
        *("last", vocabulary("words", lambda v: [*v, "r"]), {"vocabularies", "features"}),
        "words: expected 2 values, found 3",
    ),
    "a value that is less frequent": (
        *(
            "last",
            vocabulary("words", lambda v: [*{"p", "q", "r"} - {*v}, v[1]]),
            {"vocabularies", "features"},
        ),
        r"words: expected '\w', which training rows have \d+ times, found it missing",
    ),
    "an id in another bucket": (
        *("hashed", column("test/requests.arrow", "feature.tags", flip), {"features"}),
        r"expected tags \[[12, ]+\] by the log, found",
    ),
    "a mean": (
        *("time", statistic("age", "mean"), {"numbers", "features"}),
        r"age: expected mean \d+\.\d+ and standard deviation \d.*, found ",
    ),
    "a mean of all rows, not of those kept": (
        "thinned",
        mean_of_all,
        {"numbers", "features"},
        "hour: expected mean",
    ),
    "an item of test rows, where rows are left out": (
        "thinned",
        vocabulary("iid", lambda v: [*v, "g"]),
        {"vocabularies", "history seen", "features"},
        "iid: expected values that training rows have at least 1 time, found 'g'",
    ),
    "a deviation": (
        "last",
        statistic("hour", "std"),
        {"numbers", "features"},
        "hour: expected mean",
    ),
    "a label": ("time", label("like"), {"labels like"}, "expected [01], found [01]"),
    "a label of what is unknown": (
        *("time", label("done", old=None, new=0), {"labels done"}),
        "expected unknown, found 0",
    ),
    "a label, by files": ("files", label("like"), {"labels like"}, "expected [01], found [01]"),
    "what followed": ("events", label("click", "train"), {"labels click"}, "expected [01], found"),
    "what isn't known before the cut": (
        *("events", label("click", "train", old=None, new=1), {"labels click"}),
        "train, .*expected unknown, found 1",
    ),
    "what isn't known before a user's cut": (
        *("events last", label("click", "valid", old=None, new=0), {"labels click"}),
        "valid, .*expected unknown, found 0",
    ),
    "what followed in days": (
        *("events dates", label("click", "train"), {"labels click"}),
        "at 20.*expected [01], found [01]",
    ),
    "a feature of the moment": (
        *("last", column("valid/requests.arrow", "feature.hour", lambda x: x + 1), {"features"}),
        "valid, .*: expected hour .* by the log, found",
    ),
    "a feature of the log's items": (
        *("files", column("test/candidates.arrow", "feature.iid", shift), {"features"}),
        "test, .*: expected iid .* by the log, found",
    ),
    "a feature of an item": (
        *("time", column("items/features.arrow", "price", lambda x: x + 1), {"features"}),
        r"item '\w': expected price .* by the table of items, found",
    ),
    "a feature of a user": (
        *("time", column("users/features.arrow", "country", lambda x: 1 - x), {"features"}),
        r"user '\d+': expected country \d by the table of users, found \d",
    ),
    "a negative that was met": (
        *("negatives", negative_that_was_met(), {"negatives"}),
        r"train, .*: expected a negative that the user never met, found an item met at \d+",
    ),
    "a negative that is met later": (
        *("negatives", negative_that_was_met(later=True), {"negatives"}),
        r"expected a negative that the user never met, found an item met at",
    ),
    "a negative that was met before": (
        *("negatives before", negative_that_was_met(), {"negatives"}),
        r"expected a negative that the user never met up to then, found an item met at",
    ),
    "a negative of no training row": (
        *("negatives", negative_with("item", lambda _: 8), {"negatives"}),
        "test, .*item 'z' .*: expected a negative from the items of the training rows",
    ),
    "a negative with a label of 1": (
        *("negatives before", negative_with("label.like", lambda _: 1.0), {"labels like"}),
        "expected 0 beside its positive, found 1",
    ),
    "the id of a negative": (
        *("negatives before", negative_with("feature.iid", lambda x: x + 1), {"features"}),
        r"expected iid \d of the sampled item, found \d",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_is_corrupted_fails(of_shape, tmp_path, name):
    shape, corrupt, names, message = CORRUPTIONS[name]
    folder = shutil.copytree(of_shape(shape), tmp_path / "prepared")
    corrupt(folder)
    report = check(folder, sample=10_000)
    found = shapes.failed(report)
    assert set(found) == names
    assert any(re.search(message, text) for text in found.values()), found
    assert not report.passed
