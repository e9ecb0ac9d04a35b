import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finerank.data.encoding import (
    IdEncoding,
    IdsEncoding,
    NumberEncoding,
    VectorEncoding,
)
from finerank.data.vocabulary import Buckets, Vocabulary, load_ids, save_ids

NUMBERS, TEXTS = Vocabulary(pa.array([7, -3, 16_777_217])), Vocabulary(pa.array(["b", "a", "7"]))


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (pa.array([7, None, 16_777_217, 16_777_216, -3]), [1, 0, 3, 0, 2]),
        (pa.array([7, 8], pa.int8()), [1, 0]),
        (pa.array([7.0, float("nan"), None, -3.0]), [1, 0, 0, 2]),
        (pa.array(["7", "x", "-3", None, "7.5"]), [1, 0, 2, 0, 0]),
        (pa.array([2**63 + 1], pa.uint64()), [0]),
        (pa.array(["7", "8"]).dictionary_encode(), [1, 0]),
        (pa.nulls(2), [0, 0]),
        (pa.array([], pa.int64()), []),
    ],
)
def test_ids_of_a_vocabulary_of_numbers(values, ids):
    assert NUMBERS.encode(values).tolist() == ids
    assert NUMBERS.encode(values).dtype == np.int32


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (pa.array(["a", "b", None, "c", ""]), [2, 1, 0, 0, 0]),
        (pa.array([7, 8]), [3, 0]),
        (pa.array([7.0]), [3]),
        (pa.array(["a"], pa.large_string()), [2]),
    ],
)
def test_ids_of_a_vocabulary_of_texts(values, ids):
    assert TEXTS.encode(values).tolist() == ids


def test_booleans_are_zero_and_one():
    assert Vocabulary(pa.array([True])).encode(pa.array([True, False, None])).tolist() == [1, 0, 0]


@pytest.mark.parametrize("value", [1.5, float("inf"), 1e300])
def test_an_id_that_is_no_whole_number_is_refused(value):
    with pytest.raises(ValueError, match="whole numbers or text as ids, found"):
        NUMBERS.encode(pa.array([1.0, value]))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=49, max_size=60), st.data())
def test_few_rows_and_many_rows_get_the_same_ids(known, data):
    vocabulary = Vocabulary(pa.array(known, pa.int64()))
    rows = data.draw(st.lists(st.sampled_from([*known, None, 5]), max_size=3))
    few = vocabulary.encode(pa.array(rows, pa.int64()))
    many = vocabulary.encode(pa.array(rows * 50, pa.int64()))
    assert few.tolist() * 50 == many.tolist()
    expected = [known.index(row) + 1 if row in known else 0 for row in rows]
    assert few.tolist() == expected
    assert vocabulary.decode(few) == [row if row in known else None for row in rows]


def test_a_vocabulary_survives_its_file(tmp_path):
    TEXTS.save(tmp_path / "v.arrow")
    assert Vocabulary.load(tmp_path / "v.arrow").values.to_pylist() == ["b", "a", "7"]
    assert len(TEXTS) == IdEncoding(TEXTS).size == 4


@pytest.mark.parametrize(
    ("values", "separator", "ids"),
    [
        (["a, b", " ,a,,\t", None, "", "x"], ",", [[2, 1], [2], [], [], [0]]),
        (["a  b", " "], " ", [[2, 1], []]),
        (["a.b"], ".", [[2, 1]]),
        ([["a", None, "b"], None, [], [" a ", ""]], None, [[2, 1], [], [], [2]]),
    ],
)
def test_lists_of_ids(values, separator, ids):
    encoded = IdsEncoding(TEXTS, separator).encode(pa.array(values))
    assert encoded.to_pylist() == ids
    assert encoded.null_count == 0
    # the rows of a slice are those of the whole
    assert IdsEncoding(TEXTS, separator).encode(pa.array(values)[1:]).to_pylist() == ids[1:]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.large_list(pa.int16()), pa.list_(pa.int64(), 2)]
)
def test_lists_of_numbers_of_any_arrow_kind(kind):
    values = pa.array([[7, -3], None, [5, 7]], kind)
    assert IdsEncoding(NUMBERS, None).encode(values).to_pylist() == [[1, 2], [], [0, 1]]


def test_numbers_are_standardised_and_what_is_missing_is_nan():
    raw = pa.array([4.0, None, float("nan"), float("inf"), -2.0, 1e300])
    encoded = NumberEncoding(mean=1.0, std=2.0).encode(raw)
    assert encoded.null_count == 0
    np.testing.assert_array_equal(
        encoded.to_numpy()[:5], np.array([1.5, np.nan, np.nan, np.nan, -1.5], np.float32)
    )
    assert np.isfinite(encoded[5].as_py())
    assert NumberEncoding(1.0, 2.0).encode(pa.array([True, False])).to_pylist() == [0.0, -0.5]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2)])
def test_vectors_and_zeros_for_none(kind):
    encoded = VectorEncoding(2).encode(pa.array([[1.0, 2.0], None, [3.0, -4.0]], kind))
    assert encoded.to_pylist() == [[1, 2], [0, 0], [3, -4]]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0, 2.0], [1.0]], "vectors of width 2, found one of width 1"),
        ([[1.0, None]], "finite numbers in a vector"),
        ([[1.0, float("nan")]], "finite numbers in a vector"),
    ],
)
def test_a_vector_that_does_not_fit_is_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        VectorEncoding(2).encode(pa.array(vectors))


def test_buckets_by_hand():
    """The same in every process: a change here would shift the embeddings of trained models."""
    buckets = Buckets(1000)
    assert len(buckets) == 1001
    assert buckets.encode(pa.array(["a", None, "b", "a"])).tolist() == [505, 0, 976, 505]
    assert buckets.encode(pa.array([], pa.int64())).tolist() == []
    assert buckets.encode(pa.nulls(2)).tolist() == [0, 0]


def test_a_number_and_its_text_share_a_bucket():
    buckets, numbers = Buckets(50_000), [7, -3, 2**62]
    texts = buckets.encode(pa.array(list(map(str, numbers)))).tolist()
    assert buckets.encode(pa.array(numbers)).tolist() == texts
    assert buckets.encode(pa.array(numbers[:2], pa.int8())).tolist() == texts[:2]
    assert buckets.encode(pa.array([7.0, -3.0])).tolist() == texts[:2]


def test_buckets_are_evenly_filled():
    ids = Buckets(20).encode(pa.array(range(20_000)))
    counts = np.bincount(ids, minlength=21)
    assert counts[0] == 0
    assert len(counts) == 21
    assert abs(counts[1:] - 1000).max() < 5 * 1000**0.5


def test_buckets_survive_their_file(tmp_path):
    save_ids(Buckets(12), tmp_path / "new", "user")
    loaded = load_ids(tmp_path / "new", "user")
    assert isinstance(loaded, Buckets)
    assert loaded.count == 12


@pytest.mark.parametrize("far", [[], [10**15]], ids=["by a table", "by a search"])
def test_whole_numbers_are_found_whether_or_not_they_lie_close_together(far):
    vocabulary = Vocabulary(pa.array([7, -3, 5, 0, *far], pa.int64()))
    assert (vocabulary._table is None) == bool(far)
    asked = [5, -3, None, 0, 6, -4, 8, 7, 2**63 - 1, -(2**63)]
    expected = [3, 2, 0, 4, 0, 0, 0, 1, 0, 0]
    assert vocabulary.encode(pa.array(asked, pa.int64())).tolist() == expected
    assert vocabulary.encode(pa.array(asked, pa.int64()).slice(1, 4)).tolist() == expected[1:5]
    assert vocabulary.encode(pa.array([], pa.int64())).tolist() == []
    assert vocabulary.encode(pa.array(["5", "x", "-3", None])).tolist() == [3, 0, 2, 0]
    assert vocabulary.encode(pa.array(asked * 5)).dtype == np.int32
