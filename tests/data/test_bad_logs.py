"""Spoilt logs: each ends in one clear error, or in a repair that the report counts."""

import copy
import datetime as dt
import gzip
import json
import math
import os

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from finerank.data.dataset import Dataset
from finerank.data.prepare import prepare
from finerank.errors import FinerankError
from finerank.recipe import Recipe

SETTINGS = {
    "log": {"path": "log.csv", "user": "user", "item": "item", "time": "at"},
    "features": {
        "user": {"side": "user", "type": "id"},
        "item": {"side": "item", "type": "id"},
        "price": {"side": "context", "type": "number"},
    },
    "histories": {"seen": {"features": ["item"], "max_length": 3}},
    "tasks": {"click": "click"},
    "split": {"by": "time", "valid": 0.2, "test": 0.2},
}
SNIFFED = 20_480  # lines from which the engine guesses the types of a CSV's columns


def rows(count=20):
    return [
        {"user": n % 3 + 1, "item": n % 4 + 10, "at": 1000 + n, "click": n % 2, "price": n / 2}
        for n in range(count)
    ]


class Spoilt:
    """A folder with a recipe's settings and the log that a case writes."""

    def __init__(self, folder):
        self.folder, self.settings = folder, copy.deepcopy(SETTINGS)

    def csv(self, rows, name="log.csv"):
        self.settings["log"]["path"] = name
        lines = [list(rows[0]), *([*row.values()] for row in rows)]
        texts = [",".join("" if v is None else str(v) for v in line) for line in lines]
        return self.lines(texts, name)

    def lines(self, lines, name="log.csv", end="\n", encoding="utf-8"):
        self.settings["log"]["path"] = name
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((end.join(lines) + end).encode(encoding))
        return lines

    def parquet(self, rows, name="log.parquet", **columns):
        self.settings["log"]["path"] = name
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
        for column, values in columns.items():
            place = table.schema.get_field_index(column)
            table = (
                table.append_column(column, values)
                if place < 0
                else table.set_column(place, column, values)
            )
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path)
        return path

    def folder_of(self, kind, first, second):
        """A folder of two files."""
        for name, part in (("log/a", first), ("log/b", second)):
            getattr(self, kind)(part, f"{name}.{kind}")
        self.settings["log"]["path"] = "log"

    def items(self, text):
        (self.folder / "items.csv").write_text(text)
        self.settings["items"] = {"path": "items.csv", "key": "item"}

    def feature(self, name, kind="id", side="context", **options):
        self.settings["features"][name] = {"side": side, "type": kind, **options}

    def recipe(self):
        return Recipe.parse(self.settings).located(self.folder)

    def prepare(self):
        return prepare(self.recipe(), self.folder / "out").manifest["report"]


CASES = {}


def case(words=None, /, **counted):
    """A way to spoil a log; the words of the error, or what the report holds."""

    def register(spoil):
        CASES[spoil.__name__.removeprefix("spoil_")] = (spoil, words, counted)
        return spoil

    return register


def changed(number, **values):
    some = rows()
    some[number].update(values)
    return some


def with_all(**values):
    return [
        {**row, **{name: value(n) for name, value in values.items()}}
        for n, row in enumerate(rows())
    ]


# A column's values


@case(r"log.time: expected numbers, dates or times, found 'at' of type string")
def mixed_types(log):
    log.csv(changed(5, at="soon"))


@case(r"Line: 30002 .*cheap.*Could not convert string \"cheap\" to 'DOUBLE' \(.*log.csv\)")
def mixed_types_late(log):
    many = rows(SNIFFED + 10_000)
    many[30_000]["price"] = "cheap"
    log.csv(many)


@case(rows_dropped={"no user": 1, "no item": 1, "no time": 1})
def nulls(log):
    some = rows()
    some[0]["user"] = some[1]["item"] = some[2]["at"] = None
    log.csv(some)


@case(r"log: expected rows with user, item, time, label, found none: {'no user': 20}")
def all_users_null(log):
    log.csv(with_all(user=lambda n: None))


@case(r"log.time: expected numbers, dates or times, found 'at' of type string")
def all_times_null_in_csv(log):
    log.csv(with_all(at=lambda n: None))


@case(unknown_rate={"price": 1.0})
def a_column_of_nulls(log):
    log.parquet(rows(), price=pa.nulls(20, pa.float64()))


@case(rows_dropped={}, users=3)
def mixed_offsets(log):
    log.csv(with_all(at=lambda n: f"2024-01-{n + 1:02d}T00:00:00+0{n % 3}:00"))


@case(r"log.time: expected numbers, dates or times, found 'at' of type string")
def offsets_as_text(log):
    log.parquet(with_all(at=lambda n: f"2024-01-{n + 1:02d}T00:00:00+0{n % 3}:00"))


@case(r"log.path: expected columns of one type in all files, found .*at.*timestamp")
def aware_beside_naive(log):
    moments = pa.array([dt.datetime(2024, 1, n + 1) for n in range(20)])  # noqa: DTZ001
    log.parquet(rows(), "log/a.parquet", at=moments)
    log.parquet(rows(), "log/b.parquet", at=moments.cast(pa.timestamp("us", "Asia/Tokyo")))
    log.settings["log"]["path"] = "log"


@case(unknown_rate={"price": 2 / 12})
def infinite_numbers(log):
    some = changed(3, price=math.inf)
    some[4]["price"] = math.nan
    log.csv(some)


@case(rows_dropped={"no time": 2})
def infinite_times(log):
    some = changed(3, at=math.inf)
    some[4]["at"] = math.nan
    log.csv(some)


@case(rows_dropped={"no time": 1})
def a_date_without_end(log):
    some = with_all(at=lambda n: f"2024-01-{n + 1:02d} 00:00:00")
    some[3]["at"] = "infinity"
    log.csv(some)


@case(r"log.time: expected numbers, dates or times, found 'at' of type string")
def dates_out_of_range(log):
    some = with_all(at=lambda n: f"2024-01-{n + 1:02d}")
    some[3]["at"] = "2024-13-45"
    log.csv(some)


@case(warnings="1 rows have a time in the future")
def dates_to_come(log):
    some = with_all(at=lambda n: f"2024-01-{n + 1:02d}")
    some[3]["at"] = "9998-12-31"
    log.csv(some)


@case(warnings="2 rows have a time at or before 1970-01-01")
def dates_of_nothing(log):
    some = with_all(at=lambda n: f"2024-01-{n + 1:02d}")
    some[3]["at"], some[4]["at"] = "1970-01-01", "1900-01-01"
    log.csv(some)


@case(warnings="2 rows have a time of zero or less")
def zero_and_negative_times(log):
    some = with_all(at=lambda n: 1_700_000_000 + n)
    some[3]["at"], some[4]["at"] = 0, -5
    log.csv(some)


@case(warnings="several units: seconds in 10 rows, ms in 10 rows")
def milliseconds_beside_seconds(log):
    log.csv(with_all(at=lambda n: (1_700_000_000 + n) * (1000 if n % 2 else 1)))


@case(r"log.time: expected numbers, dates or times, found .*18446744073709551615")
def times_beyond_64_bits(log):
    log.parquet(rows(), at=pa.array([2**64 - 1, *range(19)], pa.uint64()))


@case(r"log.time: expected numbers, dates or times, found 'at' of type time")
def times_of_day(log):
    log.parquet(with_all(at=lambda n: dt.time(1, n)))


@case(r"features.price: expected numbers, found a column of type string")
def numbers_as_text(log):
    log.parquet(with_all(price=lambda n: "1,234"))


@case(r"tasks.click: expected 0 or 1.* found 2, in 1 rows")
def label_2(log):
    log.csv(changed(3, click=2))


@case(r"tasks.click: expected 0 or 1.* found -1, in 1 rows")
def label_below_0(log):
    log.csv(changed(3, click=-1))


@case(r"tasks.click: expected 0 or 1.* found click, of type string. Write a condition")
def label_as_text(log):
    log.parquet(with_all(click=lambda n: "yes" if n % 2 else "no"))


@case(warnings="every known label of click is 0 in train")
def one_class_in_train(log):
    log.csv([{**row, "click": row["click"] * (n >= 12)} for n, row in enumerate(rows())])


@case(warnings="every known label of click is 1 in valid")
def one_class_in_valid(log):
    log.csv([{**row, "click": int(n in range(12, 16) or n % 2)} for n, row in enumerate(rows())])


@case(warnings="every known label of click is 0 in train", label_rate={"click": 0.0})
def no_positives(log):
    log.csv(with_all(click=lambda n: 0))


@case(r"negatives: expected positives in the training set, found labels of 0 only")
def no_positives_to_sample_beside(log):
    log.csv(with_all(click=lambda n: 0))
    del log.settings["features"]["price"]
    log.settings["negatives"] = {"per_positive": 1}


@case(unknown_rate={"tags": 0.75})
def lists_with_nulls(log):
    tags = [[1, None], None, [None, None], []] * 5
    log.parquet(rows(), tags=pa.array(tags))
    log.feature("tags", "ids")


@case(r"features.tags: expected whole numbers or text as ids, found .*array<array<int64>>")
def lists_of_lists(log):
    log.parquet(rows(), tags=pa.array([[[1]]] * 20))
    log.feature("tags", "ids")


@case(r"log.user: expected whole numbers or text as ids, found a column of type struct")
def a_user_of_several_parts(log):
    log.parquet(with_all(user=lambda n: {"a": n}))


@case(r"log.user: expected one id a row, found lists")
def a_user_in_a_list(log):
    log.parquet(with_all(user=lambda n: [n]))
    del log.settings["features"]["user"]


@case(r"features.v: expected vectors of one width, found widths from 1 to 2")
def vectors_of_different_widths(log):
    log.parquet(with_all(v=lambda n: [1.0, 2.0][: 1 + n % 2]))
    log.feature("v", "vector")


@case(r"features.v: expected vectors of width 2, found one of width 1")
def a_vector_of_another_width_later(log):
    log.parquet(with_all(v=lambda n: [1.0, 2.0][: 1 + (n < 19)]))
    log.feature("v", "vector")


@case(rows_repeated=5)
def rows_that_repeat(log):
    log.csv(rows() + rows()[:5])


# Ids


@case(users=3)
def ids_beyond_64_bits(log):
    log.parquet(rows(), user=pa.array([2**64 - 1 - n % 3 for n in range(20)], pa.uint64()))


@case(users=3)
def ids_beyond_64_bits_in_csv(log):
    log.csv(with_all(user=lambda n: 2**64 - 1 - n % 3))


@case(users=6)
def ids_with_zeros_in_front(log):
    log.csv(with_all(user=lambda n: f"00{n % 3}" if n % 2 else n % 3))


@case(users=4)
def ids_with_zeros_in_front_late(log):
    many = rows(SNIFFED + 10_000)
    many[30_000]["user"] = "01"  # not user 1
    log.csv(many)


@case(r"log.user: expected whole numbers or text as ids, found [0-9]+.5")
def ids_with_fractions(log):
    log.csv(with_all(user=lambda n: n + 0.5))


@case(users=3)
def very_long_ids(log):
    log.csv(with_all(user=lambda n: f"{'x' * 100_000}{n % 3}"))


@case(r"items.key: expected one row for each of the items, found 10 in 2 rows")
def an_item_twice(log):
    log.csv(rows())
    log.items("item,kind\n10,a\n11,b\n10,c\n")


@case(r"items.key: expected the type of log.item, int64, found string")
def ids_of_other_types(log):
    log.csv(rows())
    log.items("item,kind\ni10,a\ni11,b\n")


@case(warnings="4 of 4 items of the log are not in their table")
def other_ids_in_the_table(log):
    log.csv(rows())
    log.items("item,kind\n110,a\n111,b\n")


@case(warnings="2 rows of items have no item")
def a_table_without_ids(log):
    log.csv(rows())
    log.items("item,kind\n10,a\n,b\n,c\n")


@case(r"items.path: expected rows, found an empty table")
def a_table_without_rows(log):
    log.csv(rows())
    log.items("item,kind\n")


# Columns


@case(r"log.path: expected columns whose names differ .* found 'click' twice")
def a_column_twice(log):
    log.lines([line.replace("price", "click") for line in log.csv(rows())])


@case(r"log.path: expected columns whose names differ .* found 'click' twice")
def a_column_twice_in_parquet(log):
    table = pa.Table.from_pylist(rows())
    log.parquet(table.rename_columns(["user", "item", "at", "click", "click"]))


@case(r"differ in more than upper and lower case, found 'click' and 'Click'")
def columns_that_differ_in_case(log):
    table = pa.Table.from_pylist(rows())
    log.parquet(table.rename_columns(["user", "item", "at", "click", "Click"]))


@case(r"log.item: expected a column 'item', found no such column. There is: user, at")
def a_column_missing(log):
    log.csv([{k: v for k, v in row.items() if k != "item"} for row in rows()])


@case(rows_dropped={}, items=4)
def names_like_code(log):
    names = {"user": "class", "item": 'x"; DROP TABLE rows; --', "at": "select", "price": "None"}
    log.parquet([{names.get(k, k): v for k, v in row.items()} for row in rows()])
    log.settings["log"] |= {"user": "class", "item": names["item"], "time": "select"}
    log.settings["features"] = {
        "lambda": {"side": "item", "type": "id", "column": names["item"]},
        "def": {"side": "context", "type": "number", "column": "None"},
    }
    log.settings["histories"] = {"import": {"features": ["lambda"]}}


@case(rows_dropped={}, items=4)
def names_with_quotes_dots_and_chinese(log):
    names = {"user": "us.er", "item": "it em", "at": "时间", "price": 'it\'s "x"'}
    log.parquet([{names.get(k, k): v for k, v in row.items()} for row in rows()])
    log.settings["log"] |= {"user": "us.er", "item": "it em", "time": "时间"}
    log.settings["features"] = {
        "物品": {"side": "item", "type": "id", "column": "it em"},
        "price": {"side": "context", "type": "number", "column": names["price"]},
    }
    log.settings["histories"] = {"历史": {"features": ["物品"]}}


# Files


@case(r"log.path: expected a table, found an empty file, .*log.csv")
def an_empty_file(log):
    (log.folder / "log.csv").touch()


@case(r"log: expected rows, found an empty table")
def a_header_only(log):
    log.lines(["user,item,at,click,price"])


@case(r"split: expected rows for train, valid and test, found none for test")
def an_empty_split(log):
    log.csv(rows())
    log.settings["split"] = {"by": "time", "valid_from": 1010, "test_from": 5000}


@case(r"log.path: expected a whole parquet file, found .*b.parquet")
def a_corrupt_file_in_a_folder(log):
    log.folder_of("parquet", rows(), rows())
    (log.folder / "log/b.parquet").write_bytes(b"PAR1 rubbish PAR1")


@case(r"log.path: expected a whole parquet file, found .*b.parquet")
def a_truncated_file_in_a_folder(log):
    log.folder_of("parquet", rows(), rows())
    path = log.folder / "log/b.parquet"
    path.write_bytes(path.read_bytes()[:-50])


@case(r"log.path: expected a whole arrow file, found .*log.arrow")
def a_truncated_arrow_file(log):
    path = log.folder / "log.arrow"
    pa.feather.write_feather(pa.Table.from_pylist(rows()), path, compression="uncompressed")
    path.write_bytes(path.read_bytes()[:-100])
    log.settings["log"]["path"] = "log.arrow"


def _without_price(some):
    return [{k: v for k, v in row.items() if k != "price"} for row in some]


@case(r"expected the columns of .*a.parquet in each file, found a difference in price in .*b.p")
def files_of_different_columns(log):
    log.folder_of("parquet", rows(), _without_price(rows()))


@case(r"expected the columns of .*a.csv in each file, found a difference in price in .*b.csv")
def csv_of_different_columns(log):
    log.folder_of("csv", rows(), _without_price(rows()))


@case(r"expected the columns of .*a.csv in each file, found a difference in .*user in .*b.csv")
def a_file_without_the_header(log):
    log.folder_of("csv", rows(), rows())
    path = log.folder / "log/b.csv"
    path.write_text(path.read_text().partition("\n")[2])


@case(r"log.path: expected columns of one type in all files, found .*user")
def files_of_different_types(log):
    log.folder_of("parquet", rows(), with_all(user=lambda n: f"u{n}"))


@case(r"log.path: expected a whole .gz file, found .*log.csv.gz \(Truncated")
def a_truncated_gz(log):
    log.csv(rows())
    whole = gzip.compress((log.folder / "log.csv").read_bytes())
    (log.folder / "log.csv.gz").write_bytes(whole[:-4])  # all the rows are there still
    log.settings["log"]["path"] = "log.csv.gz"


@case(r"log.path: expected a whole .zst file, found .*log.csv.zst \(Truncated")
def a_truncated_zst(log):
    log.csv(rows(5000))
    with pa.CompressedOutputStream(str(log.folder / "log.csv.zst"), "zstd") as stream:
        stream.write((log.folder / "log.csv").read_bytes())
    path = log.folder / "log.csv.zst"
    path.write_bytes(path.read_bytes()[:-1])
    log.settings["log"]["path"] = "log.csv.zst"


@case(r"expected 5 columns in each row, .* found 6 in row 6: 2,10,1004,0,2.0,9. A text that")
def too_many_columns_in_a_row(log):
    lines = log.csv(rows())
    log.lines([*lines[:5], f"{lines[5]},9", *lines[6:]])


@case(r"expected 5 columns in each row, .* found 3 in row 6: 2,10,1004")
def too_few_columns_in_a_row(log):
    lines = log.csv(rows())
    log.lines([*lines[:5], "2,10,1004", *lines[6:]])


@case(r"Line: 30001 .*Expected Number of Columns: 5 Found: 3 \(.*log.csv\)")
def too_few_columns_in_a_late_row(log):
    lines = log.csv(rows(SNIFFED + 10_000))
    log.lines([*lines[:30_000], "2,10,1004", *lines[30_001:]])


@case(r"expected 6 columns in each row, .* found 7 in row 2: .*red, big. A text .* in quotes")
def a_separator_without_quotes(log):
    head, first, *rest = log.csv(rows())
    log.lines([f"{head},note", f"{first},red, big", *(f"{line},fine" for line in rest)])


@case(r"log.user: expected a column 'user', found no such column. There is: user,item,at")
def another_separator(log):
    log.csv(rows())
    log.settings["log"]["separator"] = ";"


@case(r"This file is not utf-8 encoded.* Say encoding: latin-1")
def another_encoding(log):
    head, *rest = log.csv(rows())
    log.lines([f"{head},note", *(f"{line},café" for line in rest)], encoding="latin-1")


@case(rows_dropped={}, users=3)
def a_byte_order_mark(log):
    head, *rest = log.csv(rows())
    log.lines([f"\ufeff{head}", *rest])


@case(rows_dropped={}, users=3)
def lines_that_end_as_on_windows(log):
    log.lines(log.csv(rows()), end="\r\n")


@case(r"log.path: expected readable csv in .*sniffing.*one kind of line end throughout")
def lines_of_different_ends(log):
    lines = log.csv(rows())
    log.lines([*(f"{line}\r" for line in lines[:10]), *lines[10:]])


@case(r"log.path: expected readable json in .*log.jsonl, found Malformed JSON .* in line 7")
def a_broken_line_of_json(log):
    lines = [json.dumps(row) for row in rows()]
    log.lines([*lines[:5], lines[5][:-4], *lines[6:]], "log.jsonl")


@case(r"log.path: expected a file, folder or pattern .*, found no file whose ending tells of")
def a_folder_without_readable_files(log):
    (log.folder / "log").mkdir()
    (log.folder / "log/a.xlsx").write_text("x")
    log.settings["log"]["path"] = "log"


@case(r"all files of one kind, found .csv, .parquet. Say format")
def files_of_several_kinds(log):
    log.csv(rows(), "log/a.csv")
    log.parquet(rows(), "log/b.parquet")
    log.settings["log"]["path"] = "log"


@case(r"log.path: expected a file, folder or pattern .*, found no file")
def no_file(log):
    log.settings["log"]["path"] = "gone.csv"


@case(r"log.path: expected readable csv in .*log.csv")
def another_kind_of_file(log):
    log.parquet(rows()).rename(log.folder / "log.csv")
    log.settings["log"]["path"] = "log.csv"


@pytest.mark.parametrize("name", CASES)
def test_an_error_or_a_count(tmp_path, name):
    spoil, words, counted = CASES[name]
    log = Spoilt(tmp_path)
    spoil(log)
    if words is not None:
        with pytest.raises(FinerankError, match=words) as caught:
            log.prepare()
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        return
    report = log.prepare()
    for key, value in counted.items():
        if key == "warnings":
            assert any(value in warning for warning in report["warnings"]), report["warnings"]
        elif key in ("unknown_rate", "label_rate"):
            (column, rate), found = *value.items(), report[key]["train"]
            assert found[column] == pytest.approx(rate, abs=1e-6)
        else:
            assert report[key] == value
    if "warnings" not in counted:
        assert report["warnings"] == []


def test_a_sound_log_gives_no_warning(tmp_path):
    log = Spoilt(tmp_path)
    log.csv(with_all(at=lambda n: 1_700_000_000 + n))
    log.items("item\n10\n11\n12\n13\n99\n")
    report = log.prepare()
    assert report["warnings"] == []
    assert report["rows_repeated"] == 0
    assert report["rows_dropped"] == {}


def test_whole_numbers_in_one_file_and_fractions_in_the_next(tmp_path, read):
    """The second file's are not rounded to the first's type."""
    log = Spoilt(tmp_path)
    whole = [{**row, "price": 3} for row in rows()[:10]]
    log.folder_of("parquet", whole, [{**row, "price": 0.5} for row in rows()[10:]])
    log.prepare()
    prices = [
        round(request["request"]["price"], 3)
        for request in read(Dataset(tmp_path / "out"), "train")
    ]
    assert sorted(prices) == [-2.236] * 2 + [0.447] * 10  # of ten 3 and two 0.5


def test_files_that_change_meanwhile(tmp_path, monkeypatch):
    log = Spoilt(tmp_path)
    log.csv(rows())
    monkeypatch.setattr(
        "finerank.data.preparation.save_encodings",
        lambda *_: os.utime(tmp_path / "log.csv", ns=(0, 0)),
    )
    monkeypatch.setattr("finerank.data.prepare.read_manifest", lambda *_: {})
    with pytest.raises(FinerankError, match="found that some changed meanwhile"):
        log.prepare()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    log = Spoilt(tmp_path)
    log.csv(rows())
    (tmp_path / "log.csv").chmod(0)
    with pytest.raises((FinerankError, PermissionError)):
        log.prepare()


def test_a_user_of_very_many_events(tmp_path, read):
    """Beside a user of one event: every window ends strictly before its request."""
    count = 199_999
    table = pa.table(
        {
            "user": [1] * count + [2],
            "item": [n % 1000 for n in range(count)] + [5],
            "at": [*range(count), count - 1],
            "click": [n % 2 for n in range(count + 1)],
            "price": [1.0] * (count + 1),
        }
    )
    log = Spoilt(tmp_path)
    log.parquet(table)
    assert log.prepare()["rows"] == {"train": 120_000, "valid": 40_000, "test": 40_000}
    dataset = Dataset(tmp_path / "out")
    examples = dataset.split("test")
    start, end = (bound.numpy() for bound in examples.windows["seen"])
    last = dataset.stores["seen"].time.numpy()[end[:-1] - 1]
    assert (last == range(160_000 - 1, count - 1)).all()
    assert (end[:-1] - start[:-1] == 3).all()
    assert start[-1] == end[-1]  # the user of one event


@pytest.mark.parametrize("name", ["label_2", "a_truncated_gz", "rows_that_repeat"])
def test_the_command_line(tmp_path, finerank, name):
    spoil, words, _ = CASES[name]
    log = Spoilt(tmp_path)
    spoil(log)
    (tmp_path / "recipe.yaml").write_text(json.dumps(log.settings))
    code, out, err = finerank("prepare", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert "Traceback" not in out + err
    if words is not None:
        assert code == 2
        assert len(err.strip().splitlines()) == 1
    else:
        assert code == 0
        assert "5 rows repeat another in all that is read of them" in out


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_whose_ending_says_nothing(tmp_path, kind):
    log = Spoilt(tmp_path)
    getattr(log, kind)(rows(), "u.item")
    log.settings["log"]["format"] = kind
    assert log.prepare()["rows_dropped"] == {}
    (tmp_path / "folder").mkdir()
    (tmp_path / "u.item").rename(tmp_path / "folder" / "u.item")
    (tmp_path / "folder" / "_SUCCESS").touch()
    log.settings["log"]["path"] = "folder"
    assert log.prepare()["rows_dropped"] == {}
