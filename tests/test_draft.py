"""Each guess of a drafted recipe, on small made-up files."""

import datetime as dt

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml

from finerank.data.prepare import prepare
from finerank.draft import draft_recipe
from finerank.errors import FinerankError
from finerank.recipe import Recipe

# Ibis 12 calls what DuckDB 2 calls by another name, and warns of
pytestmark = pytest.mark.filterwarnings(r"ignore:fetch_\w+\(\) is deprecated:DeprecationWarning")

ROWS = 120
START_S = 1_700_000_000
DAY = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def cycle(*values, rows=ROWS):
    return [values[row % len(values)] for row in range(rows)]


def log_columns(**more):
    """A log of 12 users, 40 items and clicks; a column given as None is left out."""
    columns = {
        "user_id": cycle(*range(12)),
        "item_id": [100 + row * 7 % 40 for row in range(ROWS)],
        "timestamp_s": [START_S + 60 * row for row in range(ROWS)],
        "click": cycle(0, 0, 1, 0, 1),
        **more,
    }
    return {name: values for name, values in columns.items() if values is not None}


@pytest.fixture
def draft(tmp_path):
    """Writes tables and drafts: the text, and what YAML reads in it."""

    def write(home, columns):
        path = str(tmp_path / f"{home}.parquet")
        pq.write_table(pa.table(columns), path)
        return path

    def drafted(log, **tables):
        paths = {home: write(home, columns) for home, columns in tables.items()}
        text = draft_recipe(write("log", log), **paths)
        return text, yaml.safe_load(text)

    return drafted


def parsed(drafted):
    return Recipe.parse(drafted[1])


def line_with(text, start):
    found = [line for line in text.splitlines() if line.lstrip().startswith(start)]
    assert len(found) == 1, text
    return found[0]


FULL = {
    "users": {
        "user_id": list(range(12)),
        "age": list(range(20, 32)),
        "gender": cycle("F", "M", rows=12),
        "motto": [f"my own words, number {n}" for n in range(12)],
    },
    "items": {
        "item_id": list(range(100, 140)),
        "title": [f"Film {n}" for n in range(40)],
        "genres": cycle("Drama", "Drama|War", "War|Comedy", "Comedy", "Drama|Comedy", rows=40),
        "price": [n / 4 for n in range(40)],
        "look": [[n / 2, n / 3, 1.0] for n in range(40)],
        "cast": cycle([1, 2], [3], rows=40),
    },
}


class TestWhole:
    def test_the_draft_of_a_log_with_tables(self, draft, tmp_path):
        text, content = draft(log_columns(hour=cycle(1, 2, 3, 4, 5, 6, 7)), **FULL)
        assert content["log"] == {
            "path": str(tmp_path / "log.parquet"),
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp_s",
        }
        assert content["users"] == {"path": str(tmp_path / "users.parquet"), "key": "user_id"}
        assert content["items"]["title"] == "title"
        assert content["features"] == {
            "user_id": {"side": "user", "type": "id"},
            "age": {"side": "user", "type": "id"},
            "gender": {"side": "user", "type": "id"},
            "item_id": {"side": "item", "type": "id"},
            "genres": {"side": "item", "type": "ids", "separator": "|"},
            "price": {"side": "item", "type": "number"},
            "look": {"side": "item", "type": "vector"},
            "cast": {"side": "item", "type": "ids"},
            "hour": {"side": "context", "type": "id"},
        }
        assert content["tasks"] == {"click": "click"}
        assert content["histories"] == {
            "past_click": {
                "features": ["item_id", "genres", "cast"],
                "where": "click = 1",
                "max_length": 50,
            }
        }
        assert content["split"] == {"by": "time", "valid": 0.1, "test": 0.1}
        assert content["model"] == {"name": "din"}
        assert "motto (users): 12 values in 12 rows, hardly any twice" in text
        assert "TODO" not in text
        report = prepare(Recipe.parse(content), tmp_path / "prepared").manifest["report"]
        assert report["rows"] == {"train": 96, "valid": 12, "test": 12}
        assert report["label_rate"]["train"]["click"] == pytest.approx(0.4, abs=0.02)

    def test_hard_names_and_text_times_can_be_prepared(self, draft, tmp_path):
        names = log_columns(timestamp_s=None, click=None, user_id=None)
        names |= {
            "User ID": cycle(*"abcdef"),
            "time": [f"2024-03-{1 + row // 5:02d} 10:00:00" for row in range(ROWS)],
            "order": cycle(0, 1, 0),
            "on": cycle(1, 2),
            "spent, so far": [row / 3 for row in range(ROWS)],
        }
        _, content = draft(names)
        assert content["log"]["user"] == "User ID"
        assert content["log"]["derive"] == {"time_read": 'CAST("time" AS TIMESTAMP)'}
        assert content["tasks"] == {"order": '"order"'}
        assert content["features"]["User_ID"] == {
            "side": "user",
            "type": "id",
            "column": "User ID",
        }
        assert content["features"]["spent_so_far"]["column"] == "spent, so far"
        assert "on" in content["features"]
        prepare(Recipe.parse(content), tmp_path / "prepared")

    def test_a_log_of_csv_and_a_key_of_another_name(self, draft, tmp_path):
        log = pa.table(log_columns(click=None, rating=cycle(5, 3, 1, 4, 2)))
        pyarrow.csv.write_csv(log, tmp_path / "log.csv")
        items = {"id": list(range(100, 140)), "look": [[1.0, 2.0]] * 39 + [[3.0, 4.0]]}
        pq.write_table(pa.table(items), tmp_path / "items.parquet")
        text = draft_recipe(str(tmp_path / "log.csv"), items=str(tmp_path / "items.parquet"))
        recipe = Recipe.parse(yaml.safe_load(text))
        assert recipe.items.key == "id"
        assert recipe.features["look"].type == "vector"
        assert recipe.tasks["like"].label == "rating >= 4"
        report = prepare(recipe, tmp_path / "prepared").manifest["report"]
        assert report["items"] == 40
        assert report["unknown_rate"]["train"]["item_id"] == 0

    def test_a_file_that_is_not_there(self):
        with pytest.raises(FinerankError, match=r"log: expected a file.* found no file"):
            draft_recipe("nowhere.parquet")


class TestRoles:
    @pytest.mark.parametrize(
        ("user", "item"),
        [("uid", "sku"), ("userId", "movieId"), ("visitorid", "itemid"), ("customer", "product")],
    )
    def test_user_and_item_by_name(self, draft, user, item):
        columns = log_columns()
        columns |= {user: columns.pop("user_id"), item: columns.pop("item_id")}
        recipe = parsed(draft(columns))
        assert (recipe.log.user, recipe.log.item) == (user, item)

    def test_user_id_before_user(self, draft):
        recipe = parsed(draft(log_columns(user=cycle("Ann", "Bob", "Cy"))))
        assert recipe.log.user == "user_id"

    def test_user_and_item_by_the_ids_of_their_tables(self, draft):
        columns = log_columns()
        columns |= {"who": columns.pop("user_id"), "what": columns.pop("item_id")}
        users = {"nr": list(range(12)), "gender": cycle("F", "M", rows=12)}
        items = {"number": list(range(100, 140)), "size": [n / 4 for n in range(40)]}
        recipe = parsed(draft(columns, users=users, items=items))
        assert (recipe.log.user, recipe.users.key) == ("who", "nr")
        assert (recipe.log.item, recipe.items.key) == ("what", "number")
        assert recipe.features["who"].side == "user"
        assert "nr" not in recipe.features

    def test_a_table_without_key_is_not_used(self, draft):
        text, content = draft(log_columns(), users={"age": [30.5, 31.5]})
        assert "TODO users.key" in text
        assert "users" not in content
        assert "age" not in content["features"]
        Recipe.parse(content)

    def test_a_key_that_is_not_unique_and_of_another_type(self, draft):
        users = {"user_id": [str(n // 2) for n in range(24)], "gender": cycle("F", "M", rows=24)}
        text, _ = draft(log_columns(), users=users)
        assert "TODO users.key: not unique, 24 rows" in text
        assert "TODO users.key: string here, int64 in the log" in text

    def test_without_user_and_item_it_says_what_may_be(self, draft):
        columns = log_columns(user_id=None, item_id=None, cookie_id=cycle(*range(30)))
        text, content = draft(columns)
        assert "cookie_id (30 values)" in line_with(text, "# TODO log.user")
        assert text.splitlines()[1].startswith("# To edit, marked TODO below: log.user; log.item.")
        assert "histories" not in content
        assert content["model"] == {"name": "dnn"}
        Recipe.parse(content)


class TestTime:
    @pytest.mark.parametrize(
        ("name", "values", "evidence"),
        [
            ("ts", range(ROWS), "120 values, 0 to 119"),
            ("play_ms", range(1_700_000_000_000, 1_700_000_000_000 + ROWS), "milliseconds since"),
            ("when", [DAY + dt.timedelta(n % 9) for n in range(ROWS)], "2024-01-01 00"),
            ("day", [DAY.date() + dt.timedelta(n % 9) for n in range(ROWS)], "2024-01-01 to"),
        ],
    )
    def test_by_name_and_type(self, draft, name, values, evidence):
        text, content = draft(log_columns(timestamp_s=None, **{name: list(values)}))
        assert content["log"]["time"] == name
        assert evidence in line_with(text, "time:")

    def test_a_duration_is_no_time(self, draft):
        text, content = draft(log_columns(timestamp_s=None, wait_ms=list(range(ROWS))))
        assert "time" not in content["log"]
        assert "TODO log.time" in text
        assert content["split"]["by"] == "random"

    def test_the_finest_of_several(self, draft):
        text, content = draft(log_columns(date=cycle(20240101, 20240102)))
        assert content["log"]["time"] == "timestamp_s"
        assert "date: a time; derive" in text


class TestTasks:
    @pytest.mark.parametrize(
        ("values", "sql"),
        [
            ((1, 2, 3, 4, 5), "rating >= 4"),
            ((0.5, 2.5, 5.0), "rating >= 4"),
            ((1, 5, 10), "rating >= 8"),
            ((0, 1), "rating = 1"),
        ],
    )
    def test_rating(self, draft, values, sql):
        recipe = parsed(draft(log_columns(click=None, rating=cycle(*values))))
        assert [task.label for task in recipe.tasks.values()] == [sql]
        assert "rating" not in recipe.features

    def test_one_for_each_column_of_zero_and_one(self, draft):
        flags = {"is_purchase": cycle(0, 0, 0, 1), "liked": cycle(True, False, False)}
        recipe = parsed(draft(log_columns(**flags, rating=cycle(1, 5))))
        assert {name: task.label for name, task in recipe.tasks.items()} == {
            "click": "click",
            "is_purchase": "is_purchase",
            "liked": "liked",
            "like": "rating >= 4",
        }
        assert recipe.histories["past_click"].where == "click = 1"
        assert not {"liked", "is_purchase", "rating"} & set(recipe.features)

    def test_a_column_of_true_and_false_is_a_condition_already(self, draft):
        recipe = parsed(draft(log_columns(click=cycle(True, False))))
        assert recipe.tasks["click"].label == recipe.histories["past_click"].where == "click"

    def test_one_for_each_event_but_showing(self, draft):
        events = cycle("view", "view", "view", "add-to cart", "view", "it's bought", "add-to cart")
        text, content = draft(log_columns(click=None, event_type=events))
        assert content["tasks"] == {
            "add-to_cart": "event_type = 'add-to cart'",
            "it_s_bought": "event_type = 'it''s bought'",
        }
        assert "view only shows it" in line_with(text, "add-to_cart")
        Recipe.parse(content)

    def test_without_label_the_draft_says_so_and_proposes_no_leak(self, draft):
        income = cycle("--50000.", "50000+.", "50000+.")
        text, content = draft(log_columns(click=None, income_50k=income))
        assert "NOT YET A VALID RECIPE" in text.splitlines()[1]
        assert content["tasks"] is None
        assert "income_50k (2 values)" in line_with(text, "# TODO tasks")
        assert "income_50k" not in content["features"]
        assert "2 values: 50000+., --50000." in line_with(text, "# income_50k")
        with pytest.raises(FinerankError, match="tasks"):
            Recipe.parse(content)

    def test_a_label_that_is_not_zero_and_one_is_no_feature(self, draft):
        text, content = draft(log_columns(order=cycle(1, 2, 3)))
        assert list(content["tasks"]) == ["click"]
        assert "order: named like a label, but 3 values" in text
        assert "order" not in content["features"]


def type_of(draft, values, name="colour"):
    """What is made of a column of an item table."""
    items = {"item_id": list(range(100, 100 + len(values))), name: values}
    text, content = draft(log_columns(), items=items)
    settings = content["features"].get(name)
    return line_with(text, "#   " + name) if settings is None else settings


class TestFeatures:
    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            (cycle("red", "green"), "id"),
            (cycle(1, 2, 3), "id"),
            (cycle(True, False), "id"),
            (cycle(*range(40)), "number"),
            (cycle(1.0, 2.0), "number"),
            (cycle([1, 2], []), "ids"),
            (cycle(["a"], ["b", "c"]), "ids"),
            (cycle([0.5, 1.0], [1.0, 2.0]), "vector"),
        ],
    )
    def test_type(self, draft, values, kind):
        assert type_of(draft, values) == {"side": "item", "type": kind}

    def test_numbers_that_are_names(self, draft):
        assert type_of(draft, cycle(*range(40)), "brand_id")["type"] == "id"
        assert type_of(draft, [*range(30, 60), None] * 4, "zip_code")["type"] == "id"

    @pytest.mark.parametrize("separator", ["|", ";", ",", " "])
    def test_separator_in_a_column_of_tags(self, draft, separator):
        tags = ["a", "b", f"a{separator}b", f"b{separator}c", f"a{separator}c", "c"]
        found = type_of(draft, cycle(*tags), "tags")
        assert found == {"side": "item", "type": "ids", "separator": separator}

    def test_separator_in_any_column_where_the_parts_come_back(self, draft):
        parts = [f"{a}|{b}" for a in "pqrs" for b in "pqrs"]
        assert type_of(draft, cycle(*parts))["separator"] == "|"
        names = [f"{a}, {b}" for a, b in zip("abcdef", "ghijkl", strict=True)]
        assert type_of(draft, cycle(*names)) == {"side": "item", "type": "id"}
        assert type_of(draft, cycle("light blue", "dark blue"))["type"] == "id"

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ([f"thing {n}" for n in range(ROWS)], "hardly any twice"),
            (cycle("long words " * 9, "longer words " * 9), "free text"),
            (cycle(3), "constant"),
            (pa.nulls(ROWS, pa.int64()), "always null"),
            (list(range(1000, 1000 + ROWS)), "numbers the rows"),
            (cycle([0.5], [1.0, 2.0]), "lists of 1 to 2"),
            (cycle({"a": 1}), "not used"),
            (cycle(dt.date(2024, 1, 1), dt.date(2024, 1, 2)), "a time"),
        ],
    )
    def test_left_out_with_the_reason(self, draft, values, reason):
        assert reason in type_of(draft, values)

    @pytest.mark.parametrize(
        ("column", "reason"),
        [
            ("position", "decided by what ranked it"),
            ("dwell_time", "known only after the event"),
            ("fold", "names a part of a split"),
        ],
    )
    def test_of_the_log_left_out_with_the_reason(self, draft, column, reason):
        text, content = draft(log_columns(**{column: cycle(1, 2, 3)}))
        assert reason in line_with(text, f"#   {column}")
        assert column not in content["features"]

    def test_text_that_reads_as_numbers(self, draft):
        years = [str(1950 + n % 40) for n in range(ROWS)]
        text, _ = draft(log_columns(), items={"item_id": list(range(ROWS)), "year": years})
        assert "derive TRY_CAST(year AS DOUBLE)" in line_with(text, "year:")

    def test_side_of_a_log_column(self, draft):
        columns = log_columns()
        columns |= {
            "plan": [f"plan {user % 3}" for user in columns["user_id"]],
            "shelf": [f"shelf {item // 3}" for item in columns["item_id"]],
            "weather": cycle("sun", "rain", "rain", "sun", "sun", "rain", "snow"),
            "user_mood": cycle("good", "bad", "bad", "good", "bad", "good", "bad"),
        }
        recipe = parsed(draft(columns))
        sides = {name: feature.side for name, feature in recipe.features.items()}
        assert sides["plan"] == "user"
        assert sides["shelf"] == "item"
        assert sides["weather"] == "context"
        assert sides["user_mood"] == "user"
        assert recipe.histories["past_click"].features == ["item_id", "shelf"]

    def test_one_name_in_two_tables(self, draft):
        users = {"user_id": list(range(12)), "country": cycle("X", "Y", rows=12)}
        items = {"item_id": list(range(100, 140)), "country": cycle("Y", "Z", rows=40)}
        recipe = parsed(draft(log_columns(), users=users, items=items))
        assert recipe.features["country"].side == "user"
        assert recipe.features["item_country"].side == "item"
        assert recipe.column_of("item_country") == "country"

    def test_a_name_that_breaks_the_line_stays_a_comment(self, draft):
        text, content = draft(log_columns(**{"fold\nname: evil": cycle(1, 2)}))
        assert "name" not in content
        assert "fold name: evil: names a part of a split" in text
