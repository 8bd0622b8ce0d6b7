"""Grids partition what they cover, at every level of the octree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry import Box, Grid, children, octree

sides = st.tuples(*(st.integers(1, 9),) * 3)
offsets = st.tuples(*(st.integers(0, 9),) * 3)
boxes = st.builds(Box, offsets, sides)
grids = st.builds(Grid, boxes, sides)


def painted(blocks, roi):
    """How often each voxel of a region is covered."""
    count = np.zeros(roi.end, int)
    for block in blocks:
        count[block.box.slices] += 1
    return count


@given(grids)
def test_blocks_cover_every_voxel_of_the_roi_once_and_nothing_else(grid):
    count = painted(grid, grid.roi)
    assert (count[grid.roi.slices] == 1).all()
    assert count.sum() == grid.roi.n_voxels
    assert len(list(grid)) == len(grid)


@given(grids)
def test_block_is_a_whole_block_of_its_index_clipped_to_the_roi(grid):
    for block in grid:
        assert block.index in grid
        assert grid.whole(block.index).intersect(grid.roi) == block.box
        assert block.box.n_voxels > 0


@given(grids, sides)
def test_a_grown_volume_keeps_the_voxels_of_every_index(grid, more):
    end = tuple(e + m for e, m in zip(grid.roi.end, more, strict=True))
    grown = Grid(Box.between(grid.roi.offset, end), grid.block)
    assert all(grown.whole(b.index) == grid.whole(b.index) and b.index in grown for b in grid)


@given(grids, boxes)
def test_overlapping_finds_exactly_the_blocks_that_share_a_voxel(grid, box):
    expected = [b for b in grid if b.box.intersect(box).n_voxels]
    assert list(grid.overlapping(box)) == expected


@given(grids)
def test_octree_nodes_are_partitioned_by_their_children(grid):
    levels = octree(grid)
    assert len(levels[-1]) == 1
    for level in range(1, len(levels)):
        seen = []
        for node in levels[level]:
            inside = children(levels, level, node.index)
            assert 1 <= len(inside) <= 8
            assert sum(c.box.n_voxels for c in inside) == node.box.n_voxels
            assert all(node.box.contains(c.box) for c in inside)
            seen += inside
        assert sorted(b.index for b in seen) == sorted(b.index for b in levels[level - 1])


@given(boxes, boxes)
def test_intersection_holds_the_voxels_of_both(a, b):
    both = painted([], Box((0, 0, 0), (20, 20, 20)))
    both[a.slices] += 1
    both[b.slices] += 1
    assert a.intersect(b).n_voxels == (both == 2).sum()
    assert a.contains(a.intersect(b)) or a.intersect(b).n_voxels == 0


@given(boxes)
def test_relative_box_has_the_same_voxels(box):
    values = np.arange(20**3).reshape(20, 20, 20)
    part = values[box.grow((0, 0, 0), (1, 1, 1)).slices]
    assert np.array_equal(part[box.relative_to(box.offset).slices], values[box.slices])


@pytest.mark.parametrize(("lower", "upper"), [((1, 0, 0), (0, 0, 2)), ((0, 0, 0), (0, 0, 0))])
def test_grow_adds_voxels_on_each_side(lower, upper):
    grown = Box((5, 5, 5), (2, 3, 4)).grow(lower, upper)
    assert grown.offset == tuple(5 - n for n in lower)
    assert grown.shape == tuple(n + a + b for n, a, b in zip((2, 3, 4), lower, upper, strict=True))


def test_faces_between_blocks():
    grid = Grid(Box((0, 0, 0), (5, 6, 7)), (4, 3, 7))
    assert grid.inner_faces == 6 * 7 + 5 * 7
    assert Grid(grid.roi, (8, 8, 8)).inner_faces == 0
