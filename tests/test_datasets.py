"""The recipes for public data sets, on small files of exactly their owners' form.

A page in docs/datasets says what is done to the files first; what it says is what is run here.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

import finerank
from finerank.data.arrow_file import read_columns
from finerank.models.registry import check_options
from finerank.recipe import Recipe

PAGES = Path(__file__).parent.parent / "docs" / "datasets"
RECIPES = Path(str(files("finerank") / "recipes"))
NAMES = sorted({each.stem for each in RECIPES.glob("*.yaml")} - {"movielens-100k", "simulated"})
SPLITS = ("train", "valid", "test")


def commands(name, heading):
    """The shell commands below a heading of a page."""
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    (part,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^```sh\n(.*?)^```", part, flags=re.DOTALL | re.MULTILINE)


@dataclass
class Case:
    """A folder with a data set's files and its recipe."""

    name: str
    folder: Path

    def write(self, file, lines, *, encoding="utf-8"):
        text = "".join(f"{line}\n" for line in lines)
        path = self.folder / file
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(text.encode(encoding)))
        else:
            path.write_text(text, encoding=encoding)

    def write_rows(self, file, rows, separator, **options):
        lines = (separator.join("" if v is None else str(v) for v in row) for row in rows)
        self.write(file, lines, **options)

    def convert(self, block=0):
        """Run what the page says to do before."""
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        script = commands(self.name, "Before")[block]
        subprocess.run(
            ["bash", "-euc", script], cwd=self.folder, env={**os.environ, "PATH": path}, check=True
        )

    @property
    def recipe(self):
        return Recipe.load(self.folder / f"{self.name}.yaml")

    def edit(self, change):
        path = self.folder / f"{self.name}.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def prepare(self):
        """The prepared data set, of which what every one must fulfil holds."""
        prepared = finerank.prepare(self.recipe, self.folder / "prepared")
        self.report = prepared.manifest["report"]
        dataset = finerank.Dataset(prepared.folder)
        assert all(size > 0 for size in self.report["vocabulary"].values()), self.report
        for split in SPLITS:
            unknown = {n: r for n, r in self.report["unknown_rate"][split].items() if r == 1}
            assert not unknown, (split, unknown)
            self._check_histories(dataset, split)
        assert all(0 < rate < 1 for rate in self.report["label_rate"]["train"].values())
        return dataset

    def _check_histories(self, dataset, split):
        """Windows are of the request's own user, before its time, and not all empty."""
        examples = dataset.split(split)
        requests = read_columns(dataset.folder / split / "requests.arrow")
        for name, (starts, ends) in examples.windows.items():
            store, sizes = dataset.stores[name], (ends - starts).numpy()
            assert sizes.max() > 0
            events = np.repeat(starts.numpy(), sizes) + np.arange(sizes.sum())
            events -= np.repeat(np.cumsum(sizes) - sizes, sizes)
            whose = np.repeat(examples.user.numpy(), sizes)
            assert (store.user_offsets.numpy()[whose] <= events).all()
            assert (events < store.user_offsets.numpy()[whose + 1]).all()
            asked = np.repeat(requests["time"].numpy(), sizes)
            assert (store.time.numpy()[events] < asked).all()

    def train(self, *overrides):
        """One tiny step of what the recipe trains."""
        settings = ["training.epochs=1", "model.embedding_dim=4", *overrides]
        run = finerank.train(self.folder / "prepared", self.folder / "run", overrides=settings)
        for metrics in run.metrics["test"].values():
            if isinstance(metrics, dict) and "log_loss_nats" in metrics:
                assert np.isfinite(metrics["log_loss_nats"])
        return run


def examples_of(dataset, split):
    """A split, one mapping a candidate: raw user, item and time, labels, history sizes."""
    part = dataset.split(split)
    requests = read_columns(dataset.folder / split / "requests.arrow")
    request = np.repeat(np.arange(part.num_requests), part.first_candidate.diff().numpy())
    nothing = [None] * len(request)
    columns = {
        "user": dataset.users.keys.decode(part.user.numpy()[request]) if dataset.users else nothing,
        "item": dataset.items.keys.decode(part.item.numpy()) if dataset.items else nothing,
        "time": requests["time"].numpy()[request] if "time" in requests else nothing,
    }
    for task, label in zip(dataset.schema.tasks, part.labels, strict=True):
        columns[task] = [None if np.isnan(each) else each for each in label.tolist()]
    for name, (starts, ends) in part.windows.items():
        columns[name] = (ends - starts).numpy()[request]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def everything(dataset):
    return [row for split in SPLITS for row in examples_of(dataset, split)]


def only(rows, **wanted):
    (row,) = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return row


def features_of(dataset, home, key):
    """The features of one user or item, ids decoded."""
    entities = getattr(dataset, home)
    row = int(entities.keys.encode(pa.array([key]))[0])
    found = {}
    for name, column in entities.features.items():
        if hasattr(column, "offsets"):
            values = column.values[column.offsets[row] : column.offsets[row + 1]].numpy()
        else:
            values = column[row : row + 1].numpy()
        if dataset.schema.feature(name).space is not None:
            values = dataset.encoder.encodings[name].vocabulary.decode(values)
        found[name] = list(values) if hasattr(column, "offsets") else values[0]
    return found


@pytest.fixture
def case(tmp_path, request):
    name = request.node.name.removeprefix("test_").replace("_", "-").partition("[")[0]
    name = next(each for each in sorted(NAMES, key=len, reverse=True) if name.startswith(each))
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(RECIPES / f"{name}.yaml", folder)
    return Case(name, folder)


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", NAMES)
def test_page_and_recipe(name):
    recipe = Recipe.load(RECIPES / f"{name}.yaml")
    assert recipe.name == name
    check_options(recipe.model)
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert f"(../../src/finerank/recipes/{name}.yaml)" in page
    (run, *_) = commands(name, "Run")
    assert run == (
        f"finerank prepare {name}.yaml --out prepared\nfinerank train prepared --out run\n"
    )
    for part in ("**Published**", "**Terms**", "**Files**", "## Traps", "## Run on what"):
        assert part in page
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    assert f"({name}.md) | `{name}.yaml` |" in index


def write_movielens_ratings(case, file, separator, random):
    """Ratings of 40 people in sittings with many ratings a second; the rows are in no order."""
    user = np.repeat(np.arange(1, 41), 10)
    time = 881_250_949 + user * 50_000 + np.tile(np.arange(10) // 2, 40) * 40_000
    item = np.concatenate([random.choice(30, 10, replace=False) + 1 for _ in range(40)])
    rating = random.integers(1, 6, 400)
    rows = np.stack([user, item, rating, time], axis=1)
    random.shuffle(rows)
    case.write_rows(file, rows.tolist(), separator)
    return rows


def check_movielens(case, dataset, rows):
    assert sum(case.report["rows"].values()) == len(rows) == case.report["rows_in"]
    train, valid, test = (examples_of(dataset, split) for split in SPLITS)
    assert max(r["time"] for r in train) < min(r["time"] for r in valid)
    assert max(r["time"] for r in valid) < min(r["time"] for r in test)
    for user, item, rating, time in rows[:50].tolist():
        row = only(train + valid + test, user=user, item=item)
        assert row["like"] == (rating >= 4)
        assert row["time"] == time
        earlier = (rows[:, 0] == user) & (rows[:, 3] < time)
        assert row["watched"] == earlier.sum()  # those of the same second are not among them


def test_ml_100k(case, random):
    rows = write_movielens_ratings(case, "u.data", "\t", random)
    zips = ["85711", "V3N4P", "00000"]
    users = [(u, 18 + u, "MF"[u % 2], ["writer", "none"][u % 2], zips[u % 3]) for u in range(1, 41)]
    case.write_rows("u.user", users, "|")
    genres = np.eye(19, dtype=int)
    url = "http://us.imdb.com/M/title-exact?Toy%20Story%20(1995)"
    items = [
        (i, f"Film {i} (1995)", "01-Jan-1995", None, url, *(genres[i % 19] | genres[5]))
        for i in range(1, 31)
    ]
    items[1] = (2, "Misérables, Les (1958)", "11-Feb-1958", None, url, *(genres[8] | genres[12]))
    items[2] = (3, "unknown", None, None, None, *genres[0])
    case.write_rows("u.item", items, "|", encoding="latin-1")
    dataset = case.prepare()
    check_movielens(case, dataset, rows)
    assert case.report["rows"] == {"train": 280, "valid": 40, "test": 80}
    assert dataset.items.title(2) == "Misérables, Les (1958)"
    found = [features_of(dataset, "items", item) for item in (1, 2, 3)]
    assert [set(each["genres"]) for each in found] == [
        {"action", "comedy"},
        {"drama", "musical"},
        set(),
    ]
    assert found[0]["year"] > found[1]["year"]
    assert np.isnan(found[2]["year"])
    assert features_of(dataset, "users", 2)["occupation"] == "writer"
    case.train()


def test_ml_1m(case, random):
    rows = write_movielens_ratings(case, "ratings.dat", "::", random)
    ages, zips = [1, 18, 25, 56], ["48067", "98107-2117", "55117"]
    users = [(u, "FM"[u % 2], ages[u % 4], u % 21, zips[u % 3]) for u in range(1, 41)]
    case.write_rows("users.dat", users, "::")
    items = [(i, f"Film {i}: a story (1995)", "Animation|Children's") for i in range(1, 31)]
    items[1] = (2, "Misérables, Les (1958)", "Drama")
    items[2] = (3, '"Quoted" (One) (1990)', "Film-Noir|Sci-Fi")
    case.write_rows("movies.dat", items, "::", encoding="latin-1")
    dataset = case.prepare()
    check_movielens(case, dataset, rows)
    assert case.report["rows"] == {"train": 320, "valid": 40, "test": 40}
    assert [dataset.items.title(row) for row in (2, 3)] == [items[1][1], items[2][1]]
    found = [features_of(dataset, "items", item) for item in (1, 2, 3)]
    assert set(found[0]["genres"]) == {"Animation", "Children's"}
    assert found[0]["year"] > found[2]["year"] > found[1]["year"]
    assert features_of(dataset, "users", 3) == {"gender": "M", "age": 56, "occupation": 3}


def reviews_of(random, *, more):
    """Reviews by 40 people on whole days, as JSON; people differ in how many."""
    found = []
    for user in range(40):
        count = 5 + user % 4
        items = random.choice(30, count, replace=False)
        days = 16_000 + np.sort(random.choice(200, count, replace=False))
        days[1] = days[0]  # two reviews on the first day
        found += [
            {
                "reviewerID": f"A{user:012d}",
                "asin": f"B{item:09d}",
                "reviewerName": 'Ann "A" O\'Neil',
                "reviewText": "Good, \\ and: cheap\n",
                "overall": float(random.integers(1, 6)),
                "summary": "{fine}",
                "unixReviewTime": int(day) * 86_400,
                "reviewTime": "09 13, 2009",
                **more,
            }
            for item, day in zip(items.tolist(), days.tolist(), strict=True)
        ]
    return found


def check_reviews(case, dataset, reviews):
    assert case.report["rows"]["valid"] == case.report["rows"]["test"] == 40
    assert sum(case.report["rows"].values()) == len(reviews)
    assert case.report["negatives"] == {
        "train": len(reviews) - 80,
        "valid": 40,
        "test": 40,
    }
    met = {(each["reviewerID"], each["asin"]) for each in reviews}
    assert all(row["review"] == ((row["user"], row["item"]) in met) for row in everything(dataset))
    newest = {each["reviewerID"]: each for each in reviews}  # they are in order of time
    test = examples_of(dataset, "test")
    for user, last in newest.items():
        row = only(test, user=user, review=1)
        assert row["item"] == last["asin"]
        assert row["reviewed"] == sum(each["reviewerID"] == user for each in reviews) - 1


def test_amazon_2014(case, random):
    reviews = reviews_of(random, more={"helpful": [1, 2]})
    case.write("reviews_Beauty_5.json.gz", [json.dumps(each) for each in reviews])
    meta = [
        {
            "asin": f"B{item:09d}",
            "description": 'It\'s "so"',
            "title": f"Cream {item}",
            "price": 9.5,
            "brand": ["Oléo", "Xtreme"][item % 2],
            "related": {"also_bought": ["B000000001"]},
            "salesRank": {"Beauty": 100},
            "categories": [["Beauty", "Skin Care"], ["Beauty", f"Kind {item % 3}"]],
        }
        for item in range(30)
    ]
    del meta[1]["brand"], meta[2]["title"]
    case.write("meta_Beauty.json.gz", [repr(each) for each in meta])  # Python, not JSON
    case.convert()
    dataset = case.prepare()
    check_reviews(case, dataset, reviews)
    found = features_of(dataset, "items", "B000000000")
    assert found["brand"] == "Oléo"
    assert found["category"] == "Skin Care"
    assert set(found["path"]) == {"Beauty", "Skin Care", "Kind 0"}
    assert features_of(dataset, "items", "B000000001")["brand"] is None
    assert dataset.items.title(1) == "Cream 0"
    case.train("training.embedding_l2=0.0")


def test_amazon_2018(case, random):
    reviews = reviews_of(random, more={"verified": True, "style": {"Size:": " 2 oz"}})
    reviews[0]["vote"] = "1,234"
    case.write("Luxury_Beauty_5.json.gz", [json.dumps(each) for each in reviews])
    meta = [
        {
            "category": ["Luxury Beauty", f"Kind {item % 3}"],
            "description": ["a", "b"],
            "title": f"Cream {item}",
            "brand": ["Oléo", "Xtreme"][item % 2],
            "rank": "1,000 in Beauty",
            "price": "$12.99",
            "asin": f"B{item:09d}",
        }
        for item in [*range(30), 4, 4, 7]  # some come several times
    ]
    case.write("meta_Luxury_Beauty.json.gz", [json.dumps(each) for each in meta])
    case.convert()
    dataset = case.prepare()
    check_reviews(case, dataset, reviews)
    found = features_of(dataset, "items", "B000000004")
    assert (found["brand"], found["category"]) == ("Oléo", ["Luxury Beauty", "Kind 1"])


def test_criteo(case, random):
    count = 700
    label = random.integers(0, 2, count)
    counts = random.integers(-2, 60, (count, 13)).astype(object)
    kinds = np.array([f"{each:08x}" for each in random.integers(0, 2**32, 26 * 8)]).reshape(26, 8)
    kinds[8, :3] = [
        "12345678",
        "1e345678",
        "00000001",
    ]  # hexadecimal, though they look like numbers
    categories = np.stack([random.choice(each, count) for each in kinds], axis=1).astype(object)
    counts[random.random(counts.shape) < 0.2] = None
    categories[random.random(categories.shape) < 0.2] = None
    counts[0], categories[0] = [None, 0, 1, 2, 3, 4, 55, -1, *[None] * 5], None
    rows = np.concatenate([label[:, None], counts, categories], axis=1)
    case.write_rows("train.txt", rows.tolist(), "\t")
    dataset = case.prepare()
    assert case.report["rows"] == {"train": 600, "valid": 50, "test": 50}
    labels = np.array([row["click"] for row in everything(dataset)])
    assert (labels == label).all()  # rows are still in the file's order
    train = dataset.split("train")
    decode = {name: each.vocabulary.decode for name, each in dataset.encoder.encodings.items()}
    first = [decode[f"N{i}"](train.request[f"N{i}"][:1].numpy())[0] for i in range(1, 14)]
    # ln(4)² is 1.9, ln(55)² is 16.06
    assert first == [None, 0, 1, 2, 3, 3, 18, -1, *[None] * 5]
    assert train.request["C9"][0] == 0
    seen = decode["C9"](train.request["C9"].numpy())
    assert seen == categories[:600, 8].tolist()


def test_avazu(case, random):
    header = (
        "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,"
        "app_category,device_id,device_ip,device_model,device_type,device_conn_type,"
        "C14,C15,C16,C17,C18,C19,C20,C21"
    )
    words = [f"{each:08x}" for each in random.integers(0, 2**32, 6)]
    rows = []
    for number in range(600):
        day, hour = 21 + number // 60, number % 60 // 3
        device = ["a99f214a", words[number % 3]][number % 2]
        ids = [words[each] for each in random.integers(0, 6, 6)]
        ad = [15_706 + number % 5, 320, 50, 1_722, 0, 35, -1, 79]
        clicked = int(random.random() < 0.3)
        ip, model = words[number % 4], words[number % 5]
        unique = 10_000_169_349_117_863_715 + number  # beyond 63 bits
        when = f"1410{day}{hour:02d}"
        rows.append((unique, clicked, when, 1005, number % 2, *ids, device, ip, model, 1, 0, *ad))
    case.write("train.csv", [header, *(",".join(map(str, row)) for row in rows)])
    case.write("train.gz", [header, *(",".join(map(str, row)) for row in rows)])
    case.convert()
    dataset = case.prepare()
    assert case.report["rows"] == {"train": 480, "valid": 60, "test": 60}
    last = rows[-1]
    assert (last[2], last[11]) == ("14103019", words[599 % 3])
    assert last[11] != "a99f214a"
    found = only(
        examples_of(dataset, "test"),
        user=last[11],
        item=15_706 + 599 % 5,
        time=np.datetime64("2014-10-30T19:00", "us").astype(int),
    )
    assert found["click"] == last[1]
    earlier = [row for row in rows if row[11] == last[11] and row[2] < last[2]]
    assert found["shown"] == min(20, len(earlier))
    guessed = {row[12] + row[13] for row in rows if row[11] == "a99f214a"}
    assert {row["user"] for row in everything(dataset)} == guessed | set(words[:3])
    hours = dataset.encoder.encodings["hour_of_day"].vocabulary
    assert sorted(hours.values.to_pylist()) == list(range(20))


FRAPPE = ["daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"]


def test_frappe(case, random):
    pools = [
        ["morning", "noon", "night"],
        ["monday", "sunday"],
        ["workday", "weekend"],
        ["unknown", "home", "work"],
        ["free", "paid"],
        ["unknown", "sunny", "cloudy"],
        ["unknown", "Spain", "United States"],
        [0, 147, 1131],
    ]
    rows = [
        (user, random.integers(0, 100), random.integers(1, 2_000), *map(random.choice, pools))
        for user in range(40)
        for _ in range(15)
    ]
    header = ("user", "item", "cnt", *FRAPPE)
    case.write_rows("frappe.csv", [header, *rows], "\t")
    dataset = case.prepare()
    sizes = case.report["rows"]
    assert sum(sizes.values()) == 600
    assert sizes["train"] > sizes["valid"] > sizes["test"] > 0
    assert case.report["negatives"] == {split: 2 * size for split, size in sizes.items()}
    used = {(row[0], row[1]) for row in rows}
    found = everything(dataset)
    assert len(found) == 1800
    assert all(row["use"] == ((row["user"], row["item"]) in used) for row in found)


def frappe_x1_rows(random, count):
    starts = np.cumsum([0, 957, 4082, 7, 7, 2, 3, 2, 9, 80])
    sizes = [957, 4082, 7, 7, 2, 3, 2, 9, 80, 233]
    ids = starts + (random.random((count, 10)) * np.minimum(sizes, 20)).astype(int)
    return np.concatenate([random.integers(0, 2, (count, 1)), ids], axis=1)


def test_frappe_x1(case, random):
    parts = {name: frappe_x1_rows(random, n) for name, n in zip(SPLITS, (300, 80, 40), strict=True)}
    for name, rows in parts.items():
        header = ("label", "user", "item", *FRAPPE)
        case.write_rows(f"{name}.csv", [header, *rows.tolist()], ",")
    dataset = case.prepare()
    assert case.report["rows"] == {"train": 300, "valid": 80, "test": 40}
    for name, rows in parts.items():
        assert [row["use"] for row in examples_of(dataset, name)] == rows[:, 0].tolist()
    assert all(size <= 20 for size in case.report["vocabulary"].values())


def test_frappe_x1_from_libfm(case, random):
    """The page's command writes the files of Frappe_x1."""
    parts = {name: frappe_x1_rows(random, n) for name, n in zip(SPLITS, (30, 20, 10), strict=True)}
    for name, rows in parts.items():
        file = f"frappe.{'validation' if name == 'valid' else name}.libfm"
        case.write(
            file,
            [
                " ".join(["1" if label else "-1", *(f"{each}:1" for each in ids)])
                for label, *ids in rows.tolist()
            ],
        )
    case.convert()
    for name, rows in parts.items():
        header, *lines = (case.folder / f"{name}.csv").read_text().splitlines()
        assert header.split(",") == ["label", "user", "item", *FRAPPE]
        assert [list(map(int, line.split(","))) for line in lines] == rows.tolist()


def census_rows(random, count):
    """42 columns in the owners' order, two forms of each text."""
    columns = [
        random.integers(0, 91, count),
        ["Not in universe", "Private"],
        [0, 33],
        [0, 2],
        ["Children", "High school graduate"],
        [0, 1200],
        ["Not in universe", "College or university"],
        ["Never married", "Married-civilian spouse present"],
        ["Not in universe or children", "Construction"],
        ["Not in universe", "Sales"],
        ["White", "Amer Indian Aleut or Eskimo"],
        ["All other", "NA"],
        ["Female", "Male"],
        ["Not in universe", "No"],
        ["Not in universe", "Re-entrant"],
        ["Children or Armed Forces", "Full-time schedules"],
        [0, 7688],
        [0, 1902],
        [0, 99999],
        ["Nonfiler", "Joint one under 65 & one 65+"],
        ["Not in universe", "South"],
        ["?", "Utah"],
        ["Child <18 never marr not in subfamily", "Householder"],
        ["Child under 18 never married", "Householder"],
        ["1700.09", "991.95"],
        ["?", "MSA to MSA"],
        ["?", "Same county"],
        ["?", "Nonmover"],
        ["Not in universe under 1 year old", "Yes"],
        ["?", "No"],
        [0, 6],
        ["Both parents present", "Not in universe"],
        ["?", "United-States"],
        ["Outlying-U S (Guam USVI etc)", "United-States"],
        ["Mexico", "United-States"],
        ["Native- Born in the United States", "Foreign born- Not a citizen of U S "],
        [0, 2],
        ["Not in universe", "Yes"],
        [0, 2],
        [0, 52],
        [94, 95],
        ["- 50000.", "50000+."],
    ]
    assert len(columns) == 42
    drawn = [random.choice(each, count) if isinstance(each, list) else each for each in columns]
    return [[str(value) for value in row] for row in zip(*drawn, strict=True)]


def test_census_income(case, random):
    train, test = census_rows(random, 300), census_rows(random, 120)
    case.write_rows("census-income.data", train, ", ")
    case.write_rows("census-income.test", test, ", ")
    case.convert()
    dataset = case.prepare()
    assert case.report["rows"] == {"train": 300, "valid": 60, "test": 60}
    for split, rows in (("train", train), ("valid", test[::2]), ("test", test[1::2])):
        found = examples_of(dataset, split)
        assert [each["income"] for each in found] == [row[41] == "50000+." for row in rows]
        assert [each["never_married"] for each in found] == [r[7] == "Never married" for r in rows]
    inputs = {feature.name for feature in dataset.schema.features}
    assert len(inputs) == 39
    assert not inputs & {"marital_stat", "income_50k", "instance_weight"}
    known = dataset.encoder.encodings["hisp_origin"].vocabulary.values.to_pylist()
    assert sorted(known) == ["All other", "NA"]
    assert len(case.report["vocabulary"]) == 32  # the others are numbers
    case.train("model.num_experts=2")


HOUR_MS = 3_600_000


def otto_sessions(random):
    """Sessions over the four weeks; the first is known by heart."""
    begin = 1_661_299_200_000  # 24 August 2022, the first moment of validation
    sessions = [
        [
            (1, begin + 1 * HOUR_MS, "clicks"),
            (1, begin + 2 * HOUR_MS, "carts"),
            (1, begin + 3 * HOUR_MS, "clicks"),
            (2, begin + 4 * HOUR_MS, "clicks"),
            (1, begin + 26 * HOUR_MS, "orders"),
            (3, begin + 30 * HOUR_MS, "clicks"),
            (3, begin + 31 * HOUR_MS, "carts"),
        ]
    ]
    start = begin - 20 * 24 * HOUR_MS
    for _ in range(80):
        times = np.sort(start + random.integers(0, 24 * 24 * HOUR_MS, 12)).tolist()
        items = np.repeat(random.integers(0, 5, 6), 2).tolist()
        kinds = random.choice(["clicks", "carts", "orders"], 12, p=[0.6, 0.25, 0.15]).tolist()
        sessions.append(list(zip(items, times, kinds, strict=True)))
    sessions[1].append((0, begin + 4 * 24 * HOUR_MS + 21 * HOUR_MS, "clicks"))
    return sessions


def check_types_of_steps(dataset, kinds):
    """Each type of event is an id of its own in histories, those too that are never an example."""
    found = dataset.stores["acted"].columns["type"].tolist()
    assert sorted(map(found.count, set(found))) == sorted(map(kinds.count, set(kinds)))
    assert 0 not in found


def check_otto(case, dataset, sessions):
    clicks = sum(kind == "clicks" for events in sessions for _, _, kind in events)
    examples, dropped = sum(case.report["rows"].values()), case.report["rows_dropped"]
    assert case.report["rows_in"] == sum(map(len, sessions))
    assert dropped["not an example"] == case.report["rows_in"] - clicks
    assert dropped["outcome not known yet"] == clicks - examples > 0
    begin = 1_661_299_200_000_000  # in microseconds, as prepared
    valid = examples_of(dataset, "valid")
    first, second, third = (
        only(valid, user=0, item=item, time=begin + hours * 1000 * HOUR_MS)
        for item, hours in ((1, 1), (1, 3), (2, 4))
    )
    assert (first["cart"], first["order"]) == (1, 0)  # ordered an hour too late
    assert (second["cart"], second["order"]) == (0, 1)  # carted before
    assert (third["cart"], third["order"]) == (0, 0)
    assert [each["acted"] for each in (first, second, third)] == [0, 2, 3]
    # a day after it isn't over when the test begins, so that it is left out
    assert not [row for row in everything(dataset) if (row["user"], row["item"]) == (0, 3)]
    check_types_of_steps(dataset, [kind for events in sessions for _, _, kind in events])


@pytest.mark.parametrize("kind", ["lines", "parquet"])
def test_otto(case, random, kind):
    sessions = otto_sessions(random)
    lines = [
        {"session": n, "events": [dict(zip(("aid", "ts", "type"), e, strict=True)) for e in events]}
        for n, events in enumerate(sessions)
    ]
    case.write("otto-recsys-train.jsonl", [json.dumps(each) for each in lines])
    if kind == "parquet":
        case.convert()
        (case.folder / "otto-recsys-train.jsonl").unlink()

        def change(content):
            content["log"]["path"] = "otto.parquet"
            del content["log"]["derive"]

        case.edit(change)
    check_otto(case, case.prepare(), sessions)


def kuairec_views(random, users, videos):
    header = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"
    rows = []
    for user in users:
        for place in range(len(videos)):
            video = videos[(place + 7 * user) % len(videos)]
            watched, length = int(random.integers(0, 30_000)), 5_000 + 100 * video
            second = 1_593_878_903.438 + user + 12 * 3_600 * place
            text = str(np.datetime64(int((second + 28_800) * 1000), "ms")).replace("T", " ")
            day = text[:10].replace("-", "")
            rows.append((user, video, watched, length, text, day, second, watched / length))
    return header, rows


def test_kuairec(case, random):
    header, rows = kuairec_views(random, range(20), range(20))
    case.write_rows("big_matrix.csv", [[header], *rows], ",")
    _, small = kuairec_views(random, range(5), range(18, 25))
    small = [(*r[:4], None, None, None, r[7]) if i % 5 == 0 else r for i, r in enumerate(small)]
    case.write_rows("small_matrix.csv", [[header], *small], ",")
    ranges = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
    names = [
        "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author",
        *(f"{each},{each}_range" for each in ranges),
        *(f"onehot_feat{each}" for each in range(18)),
    ]
    users = [
        (
            u,
            ["full_active", "UNKNOWN"][u % 2],
            0,
            u % 2,
            u % 3 % 2,
            *[5, "(0,10]"] * 4,
            *[u % 3] * 4,
        )
        for u in range(25)
    ]
    quoted = [
        ",".join(f'"{v}"' if "," in str(v) else str(v) for v in row)
        + f",{row[0] % 2}.0,0"
        + "," * 12
        for row in users
    ]
    quoted[0] = quoted[0].replace(",0.0,0", ",,0")  # onehot_feat4 is missing for some
    case.write("user_features.csv", [",".join(names), *quoted])
    tags = [f'{v},"[{v % 7}, 30]"' if v % 2 else f"{v},[{v % 7}]" for v in range(25)]
    case.write("item_categories.csv", ["video_id,feat", *tags])
    dataset = case.prepare()
    assert case.report["rows"] == {"train": 320, "valid": 40, "test": 40}
    found = everything(dataset)
    for user, video, *_, ratio in rows:
        row = only(found, user=user, item=video)
        assert (row["complete"], row["like"]) == (ratio >= 1, ratio > 2)
        assert row["viewed"] == (video - 7 * user) % 20  # the views before this one
    assert features_of(dataset, "items", 9)["tags"] == [2, 30]
    assert features_of(dataset, "items", 8)["tags"] == [1]
    assert features_of(dataset, "users", 0)["onehot_feat4"] is None
    assert features_of(dataset, "users", 1)["onehot_feat4"] == 1
    hours = dataset.encoder.encodings["hour"].vocabulary.values.to_pylist()
    assert sorted(hours) == [0, 12]  # in Beijing
    case.train("model.num_experts=2")
    scored = finerank.load(case.folder / "run").predict(case.folder / "small_matrix.csv")
    assert scored.num_rows == len(small)
    assert scored["score_like"].null_count == 0


def test_taobao(case, random):
    begin = 1_511_971_200  # 30 November 2017 in China, the first moment of validation
    hour = 3_600
    known = [
        (1, 7, 3, "pv", begin + hour),
        (1, 7, 3, "cart", begin + 2 * hour),
        (1, 7, 3, "pv", begin + 3 * hour),
        (1, 7, 3, "buy", begin + 27 * hour),
        (1, 8, 3, "pv", begin + 30 * hour),
        (1, 8, 3, "fav", begin + 30 * hour),
        (1, 8, 3, "buy", begin + 31 * hour),
    ]
    rows = list(known)
    first = 1_511_539_200
    for user in range(2, 60):
        times = np.sort(first + random.integers(0, 9 * 24 * hour - 60, 30)).tolist()
        items = np.repeat(random.integers(0, 10, 10), 3).tolist()
        kinds = random.choice(["pv", "fav", "cart", "buy"], 30, p=[0.6, 0.1, 0.2, 0.1]).tolist()
        rows += [(user, i, i % 4, k, t) for i, k, t in zip(items, kinds, times, strict=True)]
    wrong = [(1, 7, 3, "pv", -1_512_000_000), (1, 7, 3, "pv", 2_122_867_355), (1, 7, 3, "pv", 44)]
    case.write_rows("UserBehavior.csv", [*rows, *wrong], ",")
    dataset = case.prepare()
    assert case.report["rows_in"] == len(rows) + 3
    assert case.report["rows_dropped"]["no time"] == 3
    views = sum(row[3] == "pv" for row in rows)
    assert case.report["rows_dropped"]["not an example"] == len(rows) - views
    valid = examples_of(dataset, "valid")
    chinese = (begin + 8 * hour) * 1_000_000
    early, late, last = (
        only(valid, user=1, time=chinese + hours * hour * 1_000_000) for hours in (1, 3, 30)
    )
    assert [early[task] for task in ("fav", "cart", "buy")] == [0, 1, 0]  # bought two hours late
    assert [late[task] for task in ("fav", "cart", "buy")] == [0, 0, 1]
    assert [last[task] for task in ("fav", "cart", "buy")] == [1, 0, None]  # no day before the test
    assert [early["acted"], late["acted"], last["acted"]] == [0, 2, 4]
    check_types_of_steps(dataset, [row[3] for row in rows])


def packed(*features):
    return "\x01".join(f"{field}\x02{id_}\x03{value}" for field, id_, value in features)


@pytest.mark.parametrize("kind", ["text", "parquet"])
def test_ali_ccp(case, random, kind):
    sessions = {
        "train": [f"{each:015x}{each % 16:x}" for each in random.integers(0, 2**48, 64)],
        "test": [f"{each:015x}{each % 16:x}" for each in random.integers(0, 2**48, 20)],
    }
    sessions["train"][:2] = ["0" * 15 + "1", "a" * 15 + "0"]
    samples = {}
    for split, keys in sessions.items():
        common = []
        for number, key in enumerate(keys):
            profile = [(field, 3438650 + number % 3, "1.0") for field in (101, *range(121, 130))]
            del profile[3]  # 123 isn't a field
            bags = [
                (field, 455 + place + number % 4, "2.19722")
                for field in ("109_14", "110_14", "127_14", "150_14")
                for place in range(3)
            ]
            common.append((key, len(profile + bags), packed(*profile, *bags)))
        case.write_rows(f"common_features_{split}.csv", common, ",")
        rows = []
        for number in range(16 * len(keys)):
            item = number % 5
            features = [(field, 10 * field + item, "1.0") for field in (216, 207, 206, 205)]
            features += [(210, 9131 + item, "1.0"), (210, 9140, "1.0"), (301, 9351665, "1.0")]
            if number % 3:
                features += [(f, 1, f"0.{item}931") for f in (508, 509, 702, 853)]
            click = int(random.random() < 0.3)
            buy = click * int(random.random() < 0.3)
            rows.append(
                (number + 1, click, buy, keys[number // 16], len(features), packed(*features))
            )
        rows[0] = (1, 0, 1, *rows[0][3:])  # bought without a click: wrong
        samples[split] = rows
        case.write_rows(f"sample_skeleton_{split}.csv", rows, ",")
    case.convert()
    if kind == "parquet":
        case.convert(1)
        for file in case.folder.glob("common_features_*.csv"):
            file.unlink()
        case.edit(lambda content: content.update(users={"path": "users.parquet", "key": "session"}))
    dataset = case.prepare()
    rows = samples["train"][1:]
    held_out = [row for row in rows if row[3].endswith("0")]
    assert case.report["rows"] == {
        "train": len(rows) - len(held_out),
        "valid": len(held_out),
        "test": len(samples["test"]) - 1,
    }
    assert case.report["rows_dropped"] == {"not an example": 2}
    found = examples_of(dataset, "valid")
    assert [(each["user"], each["click"], each["buy"]) for each in found] == [
        (row[3], row[1], row[2]) for row in held_out
    ]
    assert {each["item"] for each in found} == {str(2050 + item) for item in range(5)}
    user = features_of(dataset, "users", "0" * 15 + "1")
    assert user["gender"] == "3438650"
    assert user["past_categories"] == ["455", "456", "457"]
    train, decode = (
        dataset.split("train"),
        dataset.encoder.encodings["intentions"].vocabulary.decode,
    )
    column = train.candidate["intentions"]
    assert set(decode(column.values[:2].numpy())) >= {"9140"}
    assert np.isnan(train.candidate["category_match"].numpy()).mean() == pytest.approx(
        1 / 3, abs=0.02
    )
