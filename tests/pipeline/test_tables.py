"""A table comes back as it was, or raises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import TableError
from pipeline.store import open_store
from pipeline.tables import concatenate, decode, encode, read_table, write_table

DTYPES = ["uint64", "int64", "uint8", "bool", "float64"]
columns = st.integers(0, 30).flatmap(
    lambda n: st.dictionaries(
        st.sampled_from("abcd"),
        st.sampled_from(DTYPES).flatmap(
            lambda t: hnp.arrays(t, n, elements={"allow_nan": False} if t == "float64" else None)
        ),
        min_size=1,
    )
)


@given(columns)
def test_columns_come_back_with_values_and_dtypes(table):
    found = decode(encode(table), "t")
    assert list(found) == list(table)
    for name, values in table.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values)


@given(columns)
def test_same_table_has_same_bytes(table):
    assert encode(table) == encode({name: values.copy() for name, values in table.items()})


def test_table_is_one_object(tmp_path):
    table = {"id": np.arange(5, dtype=np.uint64)}
    n_bytes = write_table(str(tmp_path), "edges/0.0.1", table)
    assert open_store(str(tmp_path)).list() == ["tables/edges/0.0.1.arrow"]
    assert len(open_store(str(tmp_path)).read("tables/edges/0.0.1.arrow")) == n_bytes
    assert np.array_equal(read_table(str(tmp_path), "edges/0.0.1")["id"], table["id"])


def test_columns_that_are_read_can_be_changed_in_place_or_not_at_all(tmp_path):
    write_table(str(tmp_path), "t", {"id": np.arange(5, dtype=np.uint64)})
    values = read_table(str(tmp_path), "t")["id"]
    assert values.flags.c_contiguous


def test_missing_table_raises(tmp_path):
    with pytest.raises(TableError, match=r"'edges/0' is missing under .*marked as done"):
        read_table(str(tmp_path), "edges/0")


@pytest.mark.parametrize("keep", [0, 10, -20])
def test_damaged_table_raises(tmp_path, keep):
    write_table(str(tmp_path), "t", {"id": np.arange(500, dtype=np.uint64)})
    store = open_store(str(tmp_path))
    store.write("tables/t.arrow", store.read("tables/t.arrow")[:keep])
    with pytest.raises(TableError, match=r"table 't' is damaged .*Delete it"):
        read_table(str(tmp_path), "t")


def test_a_flipped_byte_never_becomes_another_number():
    rng = np.random.default_rng(0)
    table = {"id": rng.integers(0, 2**40, 50).astype(np.uint64), "b": rng.random(50) < 0.5}
    data = encode(table)
    for place in range(len(data)):
        flipped = data[:place] + bytes([data[place] ^ 128]) + data[place + 1 :]
        try:
            found = decode(flipped, "t")
        except TableError as error:
            assert "table 't' is damaged" in str(error)  # noqa: PT017 - padding may be flipped
        else:
            assert list(found) == list(table)
            assert all(np.array_equal(found[name], values) for name, values in table.items())


def test_concatenation_keeps_order_and_dtypes():
    empty = {"id": np.empty(0, np.uint64), "n": np.empty(0, np.int64)}
    parts = [
        {"n": np.array([1, 2]), "id": np.array([9, 8], np.uint64)},
        empty,
        {"n": np.array([3]), "id": np.array([7], np.uint64)},
    ]
    found = concatenate(iter(parts), empty)
    assert found["id"].tolist() == [9, 8, 7]
    assert found["id"].dtype == np.uint64
    assert found["n"].tolist() == [1, 2, 3]
    assert concatenate([], empty)["n"].dtype == np.int64
