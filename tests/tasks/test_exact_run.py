"""The exact decoder through a whole run, continued with other parameters."""

import shutil
import uuid

import numpy as np
import pytest
import zarr
from rich.console import Console

from pipeline.config import Config, Segment
from pipeline.errors import ConfigError
from pipeline.geometry import Box
from pipeline.job import make_job, make_steps
from pipeline.plan import check_memory
from pipeline.run import run
from pipeline.volumes import open_volume
from tasks.core import segment_volume

QUIET = Console(quiet=True)
PLAIN = {"supervoxel": None, "absorb_size": 0}


@pytest.fixture
def settings(tmp_path):
    affinities = np.random.default_rng(5).choice(
        np.array([0, 80, 160, 250], np.uint8), (3, 20, 24, 28), p=[0.4, 0.2, 0.2, 0.2]
    )
    np.save(tmp_path / "affinities.npy", affinities)
    return {
        "affinities": str(tmp_path / "affinities.npy"),
        "axes": "czyx",
        "offsets": [(-1, 0, 0), (0, -1, 0), (0, 0, -1)],
        "voxel_size": (10, 10, 10),
        "output": f"memory://{uuid.uuid4().hex}",
        "block": (8, 9, 10),
        "cluster": {"processes": False, "workers": 2},
    }


def labels(settings, level="s0"):
    volume = open_volume(f"{settings['output']}/labels/{level}")
    return volume.read(Box((0, 0, 0), volume.shape))


def test_labels_change_their_numbering_and_type_and_back(settings):
    run(Config(**settings), console=QUIET)
    packed = labels(settings)
    summary = run(Config(**settings, relabel="consecutive"), console=QUIET)
    ranks = labels(settings)
    redone = {step.name for step in summary.steps if step.done}
    assert "relabel" in redone
    assert not redone & {"segment", "stitch", "merge-0", "segments"}
    assert (packed.dtype, ranks.dtype) == (np.uint64, np.uint32)
    ids, expected = np.unique(packed, return_inverse=True)
    assert ids[0] == 0
    np.testing.assert_array_equal(ranks, expected.reshape(ranks.shape))
    run(Config(**settings), console=QUIET)
    np.testing.assert_array_equal(labels(settings), packed)
    assert labels(settings, "s1").dtype == np.uint64


def test_another_threshold_redoes_the_merging_alone(settings):
    first = run(Config(**settings, segment=PLAIN | {"threshold": 0.5}), console=QUIET)
    before = labels(settings)
    second = run(Config(**settings, segment=PLAIN | {"threshold": 0.7}), console=QUIET)
    ran = {step.name: step.done for step in second.steps}
    assert ran["segment"] == ran["stitch"] == 0
    assert ran["merge-0"] == next(step.total for step in first.steps if step.name == "merge-0")
    after = labels(settings)
    assert (before != after).any()
    fresh = settings | {"output": f"memory://{uuid.uuid4().hex}"}
    run(Config(**fresh, segment=PLAIN | {"threshold": 0.7}), console=QUIET)
    np.testing.assert_array_equal(labels(fresh), after)


def test_a_block_too_large_for_31_bit_faces_is_refused(settings):
    with pytest.raises(ConfigError, match=r"536870912 voxels, the limit is 536870911"):
        run(Config(**settings | {"block": (512, 1024, 1024)}), console=QUIET)


def test_memory_is_projected_from_what_edges_hold(settings):
    """Without supervoxels there are twenty times as many, and histograms are large."""
    settings |= {"cluster": {"memory_gib": 5.0}, "block": (256, 256, 256)}

    def check(**segment):
        config = Config(**settings, segment=segment)
        check_memory(make_steps(make_job(config)), config.cluster)

    check(linkage="mean")
    check(linkage="quantile-50")
    with pytest.raises(ConfigError, match=r"'segment' needs 5\d\.\d GiB"):
        check(linkage="quantile-50", supervoxel=None)


def test_an_input_that_was_written_anew_is_segmented_anew(settings, tmp_path):
    first = np.load(settings["affinities"])
    path = tmp_path / "affinities.zarr"
    given = settings | {"affinities": str(path)}
    results = []
    for values in (first, first[:, ::-1], first[:, ::-1]):
        if not results or (values != results[-1][0]).any():
            shutil.rmtree(path, ignore_errors=True)
            zarr.save_array(path, np.ascontiguousarray(values), zarr_format=2)
        summary = run(Config(**given, segment=PLAIN), console=QUIET)
        results.append((values, labels(given), summary.blocks))
        expected = segment_volume(np.ascontiguousarray(values), Segment(**PLAIN))
        np.testing.assert_array_equal(results[-1][1], expected)
    assert (results[0][1] != results[1][1]).any()
    assert [blocks > 0 for *_, blocks in results] == [True, True, False]
