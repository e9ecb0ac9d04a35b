"""One file at a time gives what DuckDB gives for all of them, and one batch at a time too."""

import datetime as dt

import ibis
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from finerank.data.files import open_table
from finerank.data.spark_tasks import Raw, changer, reader
from finerank.settings import FileSettings

TEXTS = {
    "types that differ": {
        "a.csv": "x,y,when\n1.50,1,2024-01-02 01:02:03\n2,1,2024-01-02 01:02:03.5\n",
        "b.csv": "y;x;when\n1.5;hi;\n;;2024-01-03\n",
        "c.csv": 'when,y,x\n2024-01-13,,"a, ""b"""\n2024-01-14,2,\n',
    },
    "dates as they are written": {
        "a.csv": "x,when\n1,13/01/2024\n2,14/01/2024\n",
        "b.csv": "x,when\n3,2024-01-15\n",
    },
    "lines": {
        "a.jsonl": '{"x": 1, "y": 1.50, "tags": ["p", null]}\n{"x": 2}\n',
        "b.jsonl": '{"y": 2, "more": "n"}\n{"x": 9007199254740993, "y": 1e5}\n',
        "c.jsonl": '{"x": 4, "tags": []}\n',
    },
}


def read_in_tasks(engine, table, sources):
    """What the tasks give, all files of the table together."""
    raws = {}
    for name, source in sources.items():
        types = engine.con.execute(f'DESCRIBE SELECT * FROM "{name}"').fetchall()
        described = {column: kind for column, kind, *_ in types}
        raws[name] = Raw(source.kind, source.files, source.options, described, source.schema)
    query = engine.compile(table)
    schema = engine.con.execute(query).fetch_record_batch().schema
    files = sum(len(source.files) for source in sources.values())
    numbers = (pa.record_batch({"id": [number]}) for number in range(files))
    return pa.Table.from_batches(reader(raws, query, schema)(numbers), schema)


def in_order(table):
    return sorted(map(str, table.to_pylist()))


@pytest.mark.parametrize("texts", TEXTS)
def test_text(tmp_path, texts):
    for name, text in TEXTS[texts].items():
        (tmp_path / name).write_text(text)
    engine, sources = ibis.duckdb.connect(), {}
    table = open_table(engine, str(tmp_path), "log.path", sources=sources)
    expected, found = table.to_pyarrow(), read_in_tasks(engine, table, sources)
    assert in_order(found) == in_order(expected)
    assert len(in_order(found)) == sum(
        text.count("\n") - name.endswith("csv") for name, text in TEXTS[texts].items()
    )


def test_text_without_names(tmp_path):
    (tmp_path / "a.dat").write_bytes("1::é\n2::b\n".encode("latin-1"))
    (tmp_path / "b.dat").write_bytes(b"3::c\n")
    settings = FileSettings(columns=["n", "text"], separator="::", encoding="latin-1")
    engine, sources = ibis.duckdb.connect(), {}
    table = open_table(engine, str(tmp_path), "log.path", settings, sources=sources)
    found = read_in_tasks(engine, table, sources)
    assert sorted(found.to_pylist(), key=str) == [
        *({"n": 1, "text": "é"}, {"n": 2, "text": "b"}, {"n": 3, "text": "c"})
    ]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns(tmp_path, kind):
    """Of several files, with columns in another order, and each with what derives from it."""
    one = pa.table(
        {"x": pa.array([1, None], pa.uint64()), "t": pa.array([1, 2], pa.timestamp("ns"))}
    )
    other = pa.table(
        {"t": pa.array([3], pa.timestamp("ns")), "x": pa.array([2**64 - 1], pa.uint64())}
    )
    for name, table in (("a", one), ("b", other)):
        if kind == "parquet":
            pq.write_table(table, tmp_path / f"{name}.parquet")
        else:
            pa.feather.write_feather(table, tmp_path / f"{name}.arrow", compression="uncompressed")
    engine, sources = ibis.duckdb.connect(), {}
    table = open_table(engine, str(tmp_path), "log.path", sources=sources)
    table = table.mutate(y=table.x.cast("string"))
    found = read_in_tasks(engine, table, sources)
    assert sorted(found["y"].to_pylist(), key=str) == ["1", str(2**64 - 1), None]
    assert in_order(found) == in_order(table.to_pyarrow())


def test_tables_of_one_query(tmp_path):
    """The rows of each file once, though a query names several tables."""
    engine, sources = ibis.duckdb.connect(), {}
    parts = []
    for name, rows in (("a", [1, 2]), ("b", [3])):
        pq.write_table(pa.table({"x": rows}), tmp_path / f"{name}.parquet")
        table = open_table(engine, str(tmp_path / f"{name}.parquet"), "log.path", sources=sources)
        parts.append(table.mutate(part=ibis.literal(name)))
    found = read_in_tasks(engine, ibis.union(*parts), sources)
    assert sorted(map(tuple, (row.values() for row in found.to_pylist()))) == [
        *((1, "a"), (2, "a"), (3, "b"))
    ]


def test_texts_of_values():
    batches = [
        pa.record_batch({"a": [1e16, 0.1, None], "t": [dt.datetime(2024, 1, 2, 3), None, None]}),  # noqa: DTZ001
        pa.record_batch({"a": [1e-5, 2e23, -0.0], "t": pa.array([None] * 3, pa.timestamp("us"))}),
    ]
    schema = pa.schema({"f": pa.string(), "t": pa.string()})
    change = changer("SELECT f::VARCHAR AS f, t::VARCHAR AS t FROM rows", ["f", "t"], schema)
    found = pa.Table.from_batches(change(iter(batches)))
    assert found["f"].to_pylist() == ["1e+16", "0.1", None, "1e-05", "2e+23", "-0.0"]
    assert found["t"].to_pylist()[:2] == ["2024-01-02 03:00:00", None]
