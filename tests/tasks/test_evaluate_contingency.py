"""The table counts what a loop counts, and may be summed from any blocks."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import VolumeError
from pipeline.geometry import Box, Grid
from tasks.evaluate import Contingency, contingency, merge

shapes = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=8)


def rows(table: Contingency) -> list[tuple[int, int, int]]:
    columns = (table.truth, table.label, table.count)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@st.composite
def volumes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(shapes)
    ids = st.sampled_from([0, 1, 2, 3, 2**40, 2**63 + 5])
    return (
        draw(hnp.arrays(np.uint64, shape, elements=ids)),
        draw(hnp.arrays(np.uint64, shape, elements=ids)),
    )


@given(volumes())
def test_counts_what_a_loop_counts(pair):
    truth, labels = pair
    expected = Counter(
        (t, b) for t, b in zip(truth.ravel().tolist(), labels.ravel().tolist(), strict=True) if t
    )
    assert rows(contingency(truth, labels)) == sorted((*k, n) for k, n in expected.items())


@given(volumes(), st.tuples(*[st.integers(1, 9)] * 3), st.randoms())
def test_any_blocks_in_any_order_sum_to_the_same_table(pair, block, random):
    truth, labels = pair
    boxes = [block.box for block in Grid(Box((0, 0, 0), truth.shape), block)]
    random.shuffle(boxes)
    parts = [contingency(truth[box.slices], labels[box.slices]) for box in boxes]
    assert rows(merge(parts)) == rows(contingency(truth, labels))


def test_keep_decides_which_voxels_count():
    truth, labels = np.array([0, 1, 1]), np.array([4, 4, 0])
    assert rows(contingency(truth, labels, np.array([True, False, True]))) == [(0, 4, 1), (1, 0, 1)]


def test_no_tables_and_no_voxels_make_an_empty_table():
    empty = contingency(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8))
    assert rows(merge([])) == rows(empty) == []
    assert empty.truth.dtype == np.uint64
    assert empty.count.dtype == np.int64


def test_transposed_exchanges_the_volumes():
    a, b = np.array([1, 1, 2, 3]), np.array([9, 5, 5, 5])
    assert rows(contingency(a, b).transposed()) == rows(contingency(b, a))


def test_every_integer_dtype_gives_the_same_table():
    truth, labels = np.array([1, 2, 2]), np.array([0, 1, 1])
    dtypes = [np.uint8, np.int16, np.uint32, np.int64, np.uint64]
    tables = [
        rows(contingency(truth.astype(a), labels.astype(b)))
        for a, b in itertools.product(dtypes, dtypes)
    ]
    assert all(table == [(1, 0, 1), (2, 1, 2)] for table in tables)


def test_other_shapes_negative_ids_and_floats_are_refused():
    with pytest.raises(VolumeError, match=r"truth has \(2,\) voxels and labels have \(3,\)"):
        contingency(np.ones(2, int), np.ones(3, int))
    with pytest.raises(VolumeError, match=r"labels holds the id -1.*background as 0"):
        contingency(np.ones(2, int), np.array([1, -1]))
    with pytest.raises(VolumeError, match=r"truth has dtype float64.*integers"):
        contingency(np.ones(2), np.ones(2, int))
