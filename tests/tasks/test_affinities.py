"""Foreign affinities in every accepted shape are read as the same edges."""

import json
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from results import write_affinities

from pipeline.arrays import create_array, open_array
from pipeline.config import Config
from pipeline.errors import ConfigError, VolumeError
from pipeline.geometry import Box
from pipeline.steps import Job
from pipeline.volumes import Volume
from tasks.affinities import (
    affinities_of,
    affinity_params,
    frame,
    reach_below,
    read_affinities,
)

SHAPE = (4, 5, 6)
WHOLE = Box((0, 0, 0), SHAPE)
LOWER = [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]


@pytest.fixture
def edges():
    """Affinities as decoders want them, 0 where an edge would leave the volume."""
    values = np.random.default_rng(0).integers(1, 256, (3, *SHAPE)).astype(np.uint8)
    values[0, 0], values[1, :, 0], values[2, :, :, 0] = 0, 0, 0
    return values


def read(tmp_path, array, box=WHOLE, roi=WHOLE, **config):
    path = tmp_path / "affinities.npy"
    np.save(path, array)
    settings = Config(
        affinities=str(path),
        output=str(tmp_path / "out"),
        axes="czyx",
        voxel_size=(1, 1, 1),
        **{"offsets": LOWER} | config,
    )
    job = Job(settings, SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), roi)
    params = json.loads(json.dumps({**frame(job), "affinities": affinity_params(job)}))
    return read_affinities(params, box)


def test_uint8_with_the_usual_offsets(tmp_path, edges):
    np.testing.assert_array_equal(read(tmp_path, edges), edges)


def test_channels_in_another_order_with_more_of_them(tmp_path, edges):
    more = np.stack([edges[2], np.zeros(SHAPE, np.uint8), edges[0], edges[1]])
    offsets = [LOWER[2], (0, 0, -9), LOWER[0], LOWER[1]]
    np.testing.assert_array_equal(read(tmp_path, more, offsets=offsets), edges)


def test_edges_stored_at_their_lower_voxel(tmp_path, edges):
    moved = np.stack([np.roll(edges[d], -1, axis=d) for d in range(3)])
    offsets = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    np.testing.assert_array_equal(read(tmp_path, moved, offsets=offsets), edges)


def test_channels_are_read_once(tmp_path, edges, monkeypatch):
    reads, whole = [], Volume.read
    monkeypatch.setattr(Volume, "read", lambda *given: reads.append(given) or whole(*given))
    read(tmp_path, edges)
    assert len(reads) == 1


def test_floats_are_rounded_to_levels(tmp_path, edges):
    np.testing.assert_array_equal(read(tmp_path, (edges / 255).astype(np.float32)), edges)


def test_a_box_beyond_the_roi_holds_no_edges_there(tmp_path, edges):
    roi = Box((1, 1, 2), (2, 3, 3))
    found = read(tmp_path, edges, box=Box((0, 0, 1), (4, 5, 5)), roi=roi)
    expected = np.zeros((3, *SHAPE), np.uint8)
    expected[(slice(None), *roi.slices)] = edges[(slice(None), *roi.slices)]
    expected[0, 1], expected[1, :, 1], expected[2, :, :, 2] = 0, 0, 0
    np.testing.assert_array_equal(found, expected[:, :, :, 1:])


def test_a_mask_removes_edges_at_both_ends(tmp_path, edges):
    mask = np.ones(SHAPE, np.uint8)
    mask[1, 2, 3] = 0
    np.save(tmp_path / "mask.npy", mask)
    found = read(tmp_path, edges, mask=str(tmp_path / "mask.npy"))
    expected = edges.copy()
    expected[:, 1, 2, 3] = 0
    expected[0, 2, 2, 3] = expected[1, 1, 3, 3] = expected[2, 1, 2, 4] = 0
    np.testing.assert_array_equal(found, expected)


def test_not_a_number_is_refused(tmp_path, edges):
    values = edges.astype(np.float32) / 255
    values[1, 2, 3, 4] = np.nan
    with pytest.raises(VolumeError, match=r"1 values that are not a number \(NaN\).*mask or roi"):
        read(tmp_path, values)


def test_floats_beyond_one_are_refused(tmp_path, edges):
    with pytest.raises(VolumeError, match=r"reach from 0 to 255.*must lie in 0…1"):
        read(tmp_path, edges.astype(np.float32) + np.float32(255) - edges)


def test_other_types_are_refused(tmp_path, edges):
    with pytest.raises(ConfigError, match=r"are int16; uint8 .* or float32"):
        read(tmp_path, edges.astype(np.int16))


def test_unknown_offsets_are_refused(tmp_path, edges):
    with pytest.raises(ConfigError, match="set offsets in the configuration"):
        read(tmp_path, edges, offsets=None)


def test_offsets_that_contradict_the_metadata_are_refused(tmp_path):
    url, away = str(tmp_path / "affinities/s0"), [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    write_affinities(url, np.zeros((3, *SHAPE), np.uint8), SHAPE)
    for offsets, accepted in ((None, True), (LOWER, True), (away, False)):
        config = Config(affinities=url, output=str(tmp_path / "out"), offsets=offsets)
        job = Job(config, SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), WHOLE)
        with nullcontext() if accepted else pytest.raises(ConfigError, match="Remove offsets"):
            affinity_params(job)


def test_missing_neighbours_are_refused(tmp_path, edges):
    with pytest.raises(ConfigError, match=r"no channel .* along \(0, -1, 0\)"):
        read(tmp_path, edges, offsets=[LOWER[0], (0, -2, 0), LOWER[2]])


def test_too_few_offsets_are_refused(tmp_path, edges):
    with pytest.raises(ConfigError, match="3 channels, but offsets names 2"):
        read(tmp_path, edges, offsets=LOWER[:2])


def heights_run(folder, heights, name):
    """The job of a run whose network has predicted `heights` already."""
    config = Config(raw="raw", model="m", output=str(folder), predict={"output": name})
    job = Job(config, SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), WHOLE)
    create_array(
        f"{folder}/{name}/s0",
        shape=SHAPE,
        dtype=np.uint8,
        block=SHAPE,
        voxel_size=job.voxel_size,
        translation=job.translation,
        channels=1,
        attributes={},
        kind="image",
    )
    open_array(f"{folder}/{name}/s0").write(WHOLE, heights[None])
    return {**frame(job), "affinities": affinity_params(job)}


@pytest.mark.parametrize("name", ["distances", "boundary"])
def test_the_lower_height_is_an_edges_affinity(tmp_path, name):
    heights = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    params = heights_run(tmp_path, heights, name)
    whole = affinities_of(heights[None], "heights")
    assert affinities_of(whole, "affinities") is whole
    for d, axis in enumerate("zyx"):
        edges = np.moveaxis(whole[d], d, 0)
        ends = np.moveaxis(heights, d, 0)
        assert (edges[1:] == np.minimum(ends[1:], ends[:-1])).all(), axis
        assert not edges[0].any()
    for box in (WHOLE, Box((1, 2, 1), (2, 2, 3)), Box((0, 1, 0), (3, 3, 2))):
        np.testing.assert_array_equal(
            read_affinities(params, box), whole[(slice(None), *box.slices)]
        )
    assert reach_below(params["affinities"]) == (1, 1, 1)


def test_decoders_do_without_torch():
    """Their workers would spend seconds and hundreds of MB on it, which nobody projected."""
    code = "import sys, tasks.exact, tasks.waterz_decoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
