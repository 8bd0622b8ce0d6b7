"""A level of the pyramid is the mode of anchored cells, however it was cut."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.arrays import create_array, open_array
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.geometry import Box, Grid
from pipeline.steps import Job, Step
from pipeline.volumes import open_volume
from tasks.pyramid import factors, steps

NM = (40.0, 4.0, 4.0)


def job(output, shape, block, roi=None, voxel_size=NM, levels=None):
    config = Config(affinities="a", output=str(output), block=block, pyramid=levels)
    return Job(config, shape, voxel_size, (0.0, 0.0, 0.0), roi or Box((0, 0, 0), shape))


def upstream(run):
    return [
        Step(name, process=lambda params, block: None, params={}, grid=Grid(run.roi, (9, 9, 9)))
        for name in ("relabel", "segments")
    ]


def write_labels(run, labels):
    url = run.path("labels", "s0")
    create_array(
        url,
        shape=run.shape,
        dtype=labels.dtype,
        block=run.config.block,
        voxel_size=run.voxel_size,
        kind="labels",
    )
    for block in Grid(run.roi, run.config.block):
        open_array(url).write(block.box, labels[block.box.slices])


def carry_out(run, labels, order=iter):
    """Levels of the pyramid as arrays."""
    write_labels(run, labels)
    found = []
    for step in steps(run, upstream(run)):
        step.prepare(step.params)
        for block in order(list(step.grid)):
            step.process(step.params, block)
        array = open_array(run.path("labels", f"s{step.params['level']}"))
        found.append(array.read(Box((0, 0, 0), array.shape)))
    return found


def mode(labels, ratio):
    """The most frequent value of every cell, the smallest of several: cell by cell."""
    shape = [-(-n // r) for n, r in zip(labels.shape, ratio, strict=True)]
    found = np.empty(shape, labels.dtype)
    for cell in itertools.product(*map(range, shape)):
        part = labels[tuple(slice(i * r, (i + 1) * r) for i, r in zip(cell, ratio, strict=True))]
        values, counts = np.unique(part, return_counts=True)
        found[cell] = values[counts.argmax()]
    return found


def random_labels(shape, seed=0):
    """Few values, so that ties are everywhere; ids of the size of packed coordinates."""
    random = np.random.default_rng(seed).integers(0, 4, shape)
    return random.astype(np.uint64) << np.uint64(50)


def test_levels_are_modes_of_the_level_before(tmp_path):
    labels = random_labels((9, 21, 34))
    one, two = carry_out(job(tmp_path, labels.shape, (8, 8, 8), levels=2), labels)
    assert np.array_equal(one, mode(labels, (1, 2, 2)))
    assert np.array_equal(two, mode(one, (1, 2, 2)))


@pytest.mark.parametrize("block", [(8, 8, 8), (5, 7, 11), (3, 16, 1), (9, 21, 34), (64, 64, 64)])
@pytest.mark.parametrize("voxel_size", [NM, (10.0, 10.0, 10.0)])
def test_levels_do_not_depend_on_blocks_or_their_order(tmp_path, block, voxel_size):
    labels = random_labels((9, 21, 34))
    whole = job(tmp_path / "whole", labels.shape, labels.shape, None, voxel_size, 3)
    cut = job(tmp_path / "cut", labels.shape, block, None, voxel_size, 3)
    expected, found = carry_out(whole, labels), carry_out(cut, labels, order=reversed)
    assert len(expected) == 3
    for a, b in zip(expected, found, strict=True):
        assert np.array_equal(a, b)


def test_region_of_interest_that_cuts_cells_is_zero_outside(tmp_path):
    labels = np.zeros((9, 21, 34), np.uint64)
    roi = Box((1, 3, 5), (7, 15, 22))
    labels[roi.slices] = random_labels(roi.shape) + 1
    run = job(tmp_path, labels.shape, (4, 8, 8), roi, levels=2)
    one, two = carry_out(run, labels)
    assert np.array_equal(one, mode(labels, (1, 2, 2)))
    assert np.array_equal(two, mode(one, (1, 2, 2)))


def test_growth_redoes_only_what_meets_new_voxels(tmp_path):
    labels = random_labels((9, 21, 34))
    carry_out(job(tmp_path, (6, 21, 34), (4, 8, 8), levels=1), labels[:6])
    grown = job(tmp_path, (9, 21, 34), (4, 8, 8), levels=1)
    write_labels(grown, labels)
    (step,) = steps(grown, upstream(grown))
    step.prepare(step.params)
    for block in step.grid.overlapping(Box((4, 0, 0), (5, 21, 34))):
        step.process(step.params, block)
    one = open_array(grown.path("labels", "s1"))
    assert np.array_equal(one.read(Box((0, 0, 0), one.shape)), mode(labels, (1, 2, 2)))


def test_levels_keep_dtype_and_place_in_nanometres(tmp_path):
    labels = random_labels((8, 16, 16)).astype(np.uint32)
    carry_out(job(tmp_path, labels.shape, (8, 8, 8), levels=2), labels)
    volume = open_volume(f"{tmp_path}/labels/s2")
    assert volume.dtype == np.uint32
    assert volume.voxel_size == (40.0, 16.0, 16.0)
    # The centre of a cell of 1 x 4 x 4 voxels of 4 nm.
    assert volume.translation == (0.0, 6.0, 6.0)
    assert open_volume(f"{tmp_path}/labels").url.endswith("s0")


def test_steps_follow_each_other_and_relabelling(tmp_path):
    run = job(tmp_path, (100, 600, 600), (64, 64, 64))
    found = steps(run, upstream(run))
    assert [step.name for step in found] == [f"pyramid-{n}" for n in range(1, 5)]
    assert [step.after for step in found] == [
        ("relabel",),
        ("pyramid-1",),
        ("pyramid-2",),
        ("pyramid-3",),
    ]
    assert found[1].grid.block == (64, 256, 256)


def test_labels_that_fit_a_block_have_no_coarser_level(tmp_path):
    run = job(tmp_path, (60, 64, 64), (64, 64, 64))
    assert steps(run, upstream(run)) == []


def test_there_are_no_levels_beyond_one_voxel():
    found = factors((20, 3, 1), (10.0, 10.0, 10.0), (8, 8, 8), 9)
    assert found == [(2, 2, 1), (4, 4, 1), (8, 4, 1), (16, 4, 1), (32, 4, 1)]


def test_pyramid_without_labels_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs a decoder before it; set `decoder`"):
        steps(job(tmp_path, (60, 64, 64), (64, 64, 64)), [])


sizes = st.tuples(*(st.floats(1.0, 100.0),) * 3)
shapes = st.tuples(*(st.integers(1, 3000),) * 3)


@given(shapes, sizes)
def test_levels_end_small_and_approach_isotropy(shape, voxel_size):
    found = factors(shape, voxel_size, (64, 64, 64), None)
    last = (1, 1, 1)
    for factor in found:
        assert any(-(-n // f) > 64 for n, f in zip(shape, last, strict=True))
        ratio = [f // p for f, p in zip(factor, last, strict=True)]
        assert set(ratio) <= {1, 2}
        assert max(ratio) == 2
        long = [d for d in range(3) if -(-shape[d] // last[d]) > 1]
        before, after = ([voxel_size[d] * f[d] for d in long] for f in (last, factor))
        assert max(after) / min(after) <= max(2, max(before) / min(before)) * (1 + 1e-9)
        last = factor
    assert all(-(-n // f) <= 64 for n, f in zip(shape, last, strict=True))
