"""New rows behind a prepared data set, against preparing all rows in one go."""

from pathlib import Path

import numpy as np
import pytest

from finerank.data import grown
from finerank.data.append import append
from finerank.data.dataset import Dataset
from finerank.errors import FinerankError
from finerank.settings import SPLITS

RECIPE = {
    "log": {"user": "uid", "item": "iid", "time": "at"},
    "items": {"key": "iid"},
    "features": {
        "uid": {"side": "user", "type": "id"},
        "iid": {"side": "item", "type": "id"},
        "kind": {"side": "item", "type": "id"},
        "device": {"side": "context", "type": "id"},
        "words": {"side": "history", "type": "ids", "separator": " "},
    },
    "histories": {
        "liked": {"features": ["iid", "words"], "where": "click = 1", "max_length": 3},
        "seen": {"features": ["kind"], "max_length": 5, "max_age": 30},
    },
    "tasks": {"click": "click"},
    "split": {"by": "time", "valid": 0.2, "test": 0.2},
}
ITEMS = [{"iid": f"i{n}", "kind": n % 3} for n in range(12)]


def log(seed, start, users, items):
    random = np.random.default_rng(seed)
    times = start + np.sort(random.integers(0, 40, 90))
    return [
        {
            "uid": int(random.choice(users)),
            "iid": f"i{random.choice(items)}",
            "at": int(at),
            "click": int(random.integers(2)),
            "device": str(random.choice(["a", "b"])),
            "words": " ".join(random.choice(["x", "y"], 2)),
        }
        for at in times
    ]


def masked(requests, dataset, *, users=True):
    """All that requests hold, sorted; what this data set's vocabularies lack as unknown."""
    known = {
        space: {*dataset.encoder.encodings[space].vocabulary.values.to_pylist()}
        for space in ("uid", "iid", "kind", "device")
    }

    def of(name, value):
        return value if value in known[name] else None

    found = []
    for r in requests:
        liked, seen = r["histories"]["liked"], r["histories"]["seen"]
        # rows of one time come in the order of items, then of the rest: compared as sets
        steps = sorted(
            zip(liked["raw_time"], liked["raw_item"], map(repr, liked["words"]), strict=True)
        )
        kinds = sorted(
            zip(seen["raw_time"], (str(of("kind", k)) for k in seen["kind"]), strict=True)
        )
        for c in r["candidates"]:
            own = (r["user"], r["time"], of("uid", r["request"]["uid"]), r["request"]["device"])
            mine = (c["item"], of("iid", c["iid"]), of("kind", c["kind"]), c["labels"])
            found.append(repr((own, mine, steps, kinds)))
    return sorted(found)


@pytest.mark.parametrize("seed", range(4))
def test_appending_gives_what_preparing_the_union_gives(new_workshop, read, monkeypatch, seed):
    monkeypatch.setattr(grown, "_ROWS_A_PIECE", 7)
    shop = new_workshop()
    first = log(seed, 0, [5, 6, 9], range(6))
    second = log(seed + 50, 100, [2, 5, 7, 9], range(3, 12))
    old = shop.prepare(RECIPE, log=first, items=ITEMS)
    Path(shop.folder / "log.parquet").unlink()  # the old rows are not read again
    new = append(old.folder, log=shop.write("day", second), out=shop.folder / "new")
    grown_set = Dataset(new.folder)

    bounds = {"by": "time"}
    for name, split in (("valid_from", "valid"), ("test_from", "test")):
        bounds[name] = min(r["time"] for r in read(grown_set, split))
    other = new_workshop()
    union = other.prepare({**RECIPE, "split": bounds}, log=first + second, items=ITEMS)
    for split in SPLITS:
        expected = masked(read(union, split), grown_set)
        assert masked(read(grown_set, split), grown_set) == expected
    for name in ("uid", "iid", "kind"):  # ids stay, new ones come behind
        before = old.encoder.encodings[name].vocabulary.values.to_pylist()
        after = grown_set.encoder.encodings[name].vocabulary.values.to_pylist()
        assert after[: len(before)] == before
        assert len(after) == len(set(after))
    begins = new.manifest["appended"][0]["first_new_train_request"]
    times = [r["time"] for r in read(grown_set, "train")]
    assert max(times[:begins]) < 100 <= min(times[begins:])
    assert new.manifest["report"]["rows"]["train"] == grown_set.split("train").num_candidates


def test_rows_that_are_in_already_are_refused(workshop):
    first = log(0, 0, [1, 2], range(6))
    old = workshop.prepare(RECIPE, log=first, items=ITEMS)
    late = workshop.write("late", [*log(1, 100, [1], range(6)), first[-1]])
    with pytest.raises(FinerankError, match=r"rows after the last time .* found 1 at or before"):
        append(old.folder, log=late, out=workshop.folder / "new")
    assert not (workshop.folder / "new").exists()


def test_a_grown_model_scores_as_the_old_one_did(workshop):
    import torch  # noqa: PLC0415

    import finerank  # noqa: PLC0415
    from finerank.evaluation.evaluator import score  # noqa: PLC0415
    from finerank.models.registry import build  # noqa: PLC0415
    from finerank.training.warm_start import start_from  # noqa: PLC0415

    settings = {**RECIPE, "model": {"name": "din", "embedding_dim": 4, "hidden_units": [8]}}
    settings["training"] = {"epochs": 1, "batch_size": 32, "metric": "log_loss_nats"}
    old = workshop.prepare(settings, log=log(0, 0, [5, 6, 9], range(6)), items=ITEMS)
    run = finerank.train(old.folder, workshop.folder / "run")
    day = workshop.write("day", log(1, 100, [2, 5, 7], range(3, 12)))
    new = Dataset(append(old.folder, log=day, out=workshop.folder / "new").folder)
    bundle = finerank.load(run.folder).bundle
    grown_model = build(new.schema, bundle.recipe.model)
    start_from(grown_model, bundle.model, "run")
    before = [score(bundle.model, old.split(split)) for split in SPLITS]
    after = score(grown_model, new.split("train"))
    joined = np.concatenate(before)
    np.testing.assert_array_equal(after[: len(joined)], joined)
    assert len(after) - len(joined) == new.training_set(seed=0, only_new=True).num_candidates
    fresh = score(
        grown_model,
        new.split("train").since(new.manifest["appended"][0]["first_new_train_request"]),
    )
    np.testing.assert_array_equal(after[len(joined) :], fresh)

    went_on = finerank.train(new.folder, workshop.folder / "next", start=run.folder, only_new=True)
    assert went_on.metrics["model"] == "din"
    with pytest.raises(FinerankError, match="another meaning of uid"):
        finerank.train(old.folder, workshop.folder / "back", start=went_on.folder)
    with pytest.raises(FinerankError, match="a data set with appended rows"):
        finerank.train(old.folder, workshop.folder / "back", only_new=True)
    assert torch.get_num_threads() == 1
