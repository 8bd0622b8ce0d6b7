"""The promise: labels, segment table and merges are the same however the volume is cut."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results import assert_same

from pipeline.config import Segment, Supervoxel
from tasks.core import segment_volume


def examples(n):
    """Settings for examples that each run the whole decoder."""
    return settings(max_examples=n, deadline=None, suppress_health_check=list(HealthCheck))


fractions = st.one_of(st.sampled_from([0.0, 1.0, 128 / 255]), st.floats(0, 1))


@st.composite
def volumes(draw, least=1, most=14):
    """Affinities with few distinct values (ties everywhere), holes, or none at all."""
    side = st.integers(least, most)
    shape = tuple(draw(st.tuples(side, side, side)))
    values = draw(st.lists(st.integers(0, 255), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    affinities = rng.choice(np.array(values, np.uint8), (3, *shape))
    affinities[rng.random(affinities.shape) < draw(st.sampled_from([0, 0.3, 0.7]))] = 0
    return affinities


segments = st.builds(
    Segment,
    low=st.sampled_from([0.004, 0.02, 0.3, 1.0]),
    high=st.none() | fractions,
    supervoxel=st.none() | st.builds(Supervoxel, affinity=fractions, size=st.integers(1, 60)),
    linkage=st.sampled_from(["mean", "mean", "quantile-50", "quantile-85"]),
    threshold=st.none() | fractions,
    absorb_size=st.sampled_from([0, 2, 10, 60]),
    min_size=st.sampled_from([0, 0, 5, 30]),
)
blocks = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))


@examples(120)
@given(affinities=volumes(), segment=segments, block=blocks, seed=st.integers(0, 99))
def test_any_blocks_give_the_labels_of_one_block(run_serially, affinities, segment, block, seed):
    whole = run_serially(affinities, affinities.shape[1:], segment)
    np.testing.assert_array_equal(whole.labels, segment_volume(affinities, segment))
    assert_same(run_serially(affinities, block, segment, seed=seed), whole)


@examples(15)
@given(
    affinities=volumes(15, 40),
    segment=segments,
    block=st.tuples(st.integers(5, 20), st.integers(5, 20), st.integers(5, 20)),
)
def test_larger_volumes(run_serially, affinities, segment, block):
    whole = run_serially(affinities, affinities.shape[1:], segment)
    assert_same(run_serially(affinities, block, segment), whole)


@examples(25)
@given(affinities=volumes(4, 12), segment=segments, block=blocks, data=st.data())
def test_roi_and_mask(run_serially, tmp_path_factory, affinities, segment, block, data):
    shape = affinities.shape[1:]
    offset = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    extent = tuple(data.draw(st.integers(1, n - o)) for n, o in zip(shape, offset, strict=True))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    path = tmp_path_factory.mktemp("mask") / "mask.npy"
    np.save(path, (rng.random(shape) < 0.8).astype(np.uint8))
    chosen = {"roi": {"offset": offset, "shape": extent}, "mask": str(path)}
    whole = run_serially(affinities, shape, segment, **chosen)
    assert_same(run_serially(affinities, block, segment, **chosen), whole)
    outside = np.ones(shape, bool)
    box = tuple(slice(o, o + n) for o, n in zip(offset, extent, strict=True))
    outside[box] = np.load(path)[box] == 0
    assert not whole.labels[outside].any()


@examples(15)
@given(affinities=volumes(), segment=segments, block=blocks)
def test_consecutive_labels_are_ranks(run_serially, affinities, segment, block):
    packed = run_serially(affinities, block, segment)
    ranks = run_serially(affinities, block, segment, relabel="consecutive")
    assert ranks.labels.dtype == np.uint32
    ids = np.unique(packed.labels)
    ids = ids[ids > 0]
    np.testing.assert_array_equal(ids, packed.segments["id"])
    expected = np.searchsorted(ids, packed.labels) + (packed.labels > 0)
    np.testing.assert_array_equal(ranks.labels, expected)


def test_repeated_blocks_change_nothing(run_serially):
    affinities = np.random.default_rng(1).integers(0, 256, (3, 12, 11, 10)).astype(np.uint8)
    segment = Segment(absorb_size=20)
    once = run_serially(affinities, (5, 4, 3), segment, seed=3)
    assert_same(run_serially(affinities, (5, 4, 3), segment, seed=4, twice=True), once)


def test_segment_table_tells_what_the_labels_show(run_serially):
    affinities = np.random.default_rng(2).choice(
        np.array([0, 90, 200], np.uint8), (3, 13, 12, 11), p=[0.5, 0.3, 0.2]
    )
    result = run_serially(affinities, (4, 5, 6), Segment(threshold=0.6, absorb_size=5, min_size=3))
    table = result.segments
    assert len(table["id"]) > 3
    for row, name in enumerate(table["id"]):
        voxels = np.argwhere(result.labels == name)
        assert table["n_voxels"][row] == len(voxels)
        low = [table[f"{axis}0"][row] for axis in "zyx"]
        high = [table[f"{axis}1"][row] for axis in "zyx"]
        np.testing.assert_array_equal(low, voxels.min(axis=0))
        np.testing.assert_array_equal(high, voxels.max(axis=0) + 1)
        centroid = [table[f"centroid_{axis}"][row] for axis in "zyx"]
        np.testing.assert_allclose(centroid, voxels.mean(axis=0) * (10, 20, 30) + (0, 5, 0))
        point = tuple(table[f"point_{axis}"][row] for axis in "zyx")
        assert result.labels[point] == name


@pytest.mark.parametrize("value", [0, 1, 255])
def test_constant_affinities(run_serially, value):
    affinities = np.full((3, 5, 6, 7), value, np.uint8)
    labels = run_serially(affinities, (2, 3, 4), Segment(low=0.02)).labels
    assert (labels == (value == 255)).all()


def test_one_voxel(run_serially):
    assert run_serially(np.zeros((3, 1, 1, 1), np.uint8), (1, 1, 1), Segment()).labels.item() == 0
