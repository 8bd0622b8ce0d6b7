import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import Box, Grid
from tasks.tiles import cores, mirrored, read_ahead, read_mirrored, whole_tiles


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_mirrored_indices_are_those_of_numpys_reflection(size):
    expected = np.pad(np.arange(size), 9, mode="reflect")
    assert mirrored(-9, size + 9, size).tolist() == expected.tolist()


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    offset=st.tuples(*[st.integers(-8, 8)] * 3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_a_read_does_not_depend_on_the_box_that_asks(shape, offset, size):
    volume = np.random.default_rng(0).integers(0, 255, shape)
    padded = np.pad(volume, 20, mode="reflect")
    box = Box(offset, size)
    found = read_mirrored(lambda inside: volume[inside.slices], shape, box)
    assert (found == padded[box.relative_to((-20, -20, -20)).slices]).all()


def test_a_mirrored_read_asks_only_for_voxels_of_the_volume():
    asked = []

    def read(box):
        asked.append(box)
        return np.zeros(box.shape)

    read_mirrored(read, (10, 10, 10), Box((-3, 4, 8), (5, 2, 4)))
    assert asked == [Box((0, 4, 7), (4, 2, 3))]


@pytest.mark.parametrize("roi", [Box((0, 0, 0), (20, 9, 17)), Box((5, 3, 9), (13, 6, 8))])
def test_cores_of_all_blocks_are_those_of_the_region_each_once(roi):
    tile, stride = (8, 4, 8), (4, 2, 2)
    whole = cores(roi, roi, tile, stride)
    for times in itertools.product((1, 2), repeat=3):
        block = tuple(t * n for t, n in zip(tile, times, strict=True))
        parts = [core for b in Grid(roi, block) for core in cores(b.box, roi, tile, stride)]
        assert sorted(parts, key=lambda core: core.offset) == whole
    covered = np.zeros(40**3, int).reshape(40, 40, 40)
    for core in whole:
        covered[core.slices] += 1
        assert not (np.array(core.offset + core.shape) % np.array(stride + stride)).any()
    assert covered.max() == 1
    assert covered[roi.slices].all()


def test_blocks_are_rounded_up_to_whole_tiles():
    assert whole_tiles((100, 128, 129), (64, 64, 64)) == (128, 128, 192)


def test_reading_ahead_keeps_the_order_and_the_depth():
    boxes = [Box((i, 0, 0), (1, 1, 1)) for i in range(7)]
    begun = []

    def read(box):
        begun.append(box)
        return np.array(box.offset)

    with ThreadPoolExecutor(1) as pool:
        for n, (box, values) in enumerate(read_ahead(pool, read, boxes, 2)):
            assert values[0] == box.offset[0] == n
            assert len(begun) <= n + 3
    assert begun == boxes


def test_a_read_that_fails_raises():
    def read(box):
        raise OSError("gone")

    with ThreadPoolExecutor(1) as pool, pytest.raises(OSError, match="gone"):
        list(read_ahead(pool, read, [Box((0, 0, 0), (1, 1, 1))], 2))
