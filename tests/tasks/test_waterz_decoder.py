"""The classic way: one block is plain waterz; more blocks are joined by overlap."""

import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from rich.console import Console

from pipeline.arrays import open_array
from pipeline.config import Config, Waterz
from pipeline.errors import ConfigError
from pipeline.geometry import Box
from pipeline.run import run as run_on_cluster
from pipeline.steps import Job, builder
from tasks.evaluate import contingency, score
from tasks.waterz_agglomeration import agglomerate, scoring_function
from tasks.waterz_decoder import majority, steps

OFFSETS = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]


@pytest.fixture(scope="module")
def tubes():
    """Noisy affinities of a grid of tubes along z that wander a little."""
    z, y, x = np.indices((20, 24, 28))
    truth = 1 + (y + z // 7) // 8 * 10 + (x + z // 5) // 9
    rng = np.random.default_rng(3)
    affinities = np.empty((3, *truth.shape), np.uint8)
    for d in range(3):
        same = np.roll(truth, 1, axis=d) == truth
        affinities[d] = np.where(same, 190, 20) + rng.integers(0, 60, truth.shape)
    return truth, affinities


def configuration(tmp_path, affinities, **fields):
    np.save(tmp_path / "affinities.npy", affinities)
    return Config.model_validate(
        {
            "affinities": str(tmp_path / "affinities.npy"),
            "axes": "czyx",
            "offsets": OFFSETS,
            "output": str(tmp_path / "out"),
            "decoder": "waterz",
            **fields,
        }
    )


def run(tmp_path, affinities, **fields):
    """Labels and the array that holds them, without any cluster."""
    config = configuration(tmp_path, affinities, **fields)
    whole = Box((0, 0, 0), affinities.shape[1:])
    roi = whole if config.roi is None else Box(config.roi.offset, config.roi.shape)
    job = Job(config, whole.shape, (10.0, 10.0, 10.0), (0.0, 0.0, 0.0), roi)
    for step in steps(job, []):
        if step.prepare:
            step.prepare(step.params)
        for block in step.grid:
            step.process(step.params, block)
    labels = open_array(str(tmp_path / "out/labels/s0"))
    return labels.read(whole), labels


def test_one_block_is_plain_waterz(tmp_path, tubes):
    _, affinities = tubes
    labels, _ = run(tmp_path, affinities, block=[64, 64, 64])
    expected = agglomerate(clear_sides(affinities), Waterz().model_dump())
    scores = score(contingency(expected, labels, np.ones(labels.shape, bool)))
    assert scores.voi == 0
    assert scores.n_labels > 5


def clear_sides(affinities):
    """Affinities without the edges that leave the volume."""
    inner = affinities.copy()
    inner[0, 0], inner[1, :, 0], inner[2, :, :, 0] = 0, 0, 0
    return inner


@pytest.mark.parametrize("block", [(7, 24, 28), (8, 9, 11), (20, 24, 13)])
def test_blocks_are_joined_where_they_overlap(tmp_path, tubes, block):
    truth, affinities = tubes
    labels, _ = run(tmp_path, affinities, block=block, waterz={"context": 6})
    scores = score(contingency(truth, labels))
    alone = score(contingency(truth, agglomerate(affinities, Waterz().model_dump())))
    assert scores.voi < alone.voi + 0.1


def test_without_joins_every_block_would_have_its_own_labels(tmp_path, tubes):
    truth, affinities = tubes
    joined, _ = run(tmp_path, affinities, block=[7, 24, 28], waterz={"context": 6})
    fragments = open_array(str(tmp_path / "out/fragments/s0")).read(Box((0, 0, 0), truth.shape))
    assert np.unique(joined).size < np.unique(fragments).size / 2
    at = [np.unique(fragments[z : z + 7]) for z in (0, 7, 14)]
    assert not np.intersect1d(at[0], at[1]).any()
    assert not np.intersect1d(at[1], at[2]).any()


def test_labels_are_consecutive_where_asked_for(tmp_path, tubes):
    _, affinities = tubes
    labels, array = run(tmp_path, affinities, block=[8, 12, 14], relabel="consecutive")
    found = np.unique(labels[labels > 0])
    assert array.dtype == np.uint32
    np.testing.assert_array_equal(found, np.arange(1, found.size + 1))


def test_nothing_outside_the_region(tmp_path, tubes):
    _, affinities = tubes
    roi = {"offset": [3, 4, 5], "shape": [12, 15, 20]}
    labels, _ = run(tmp_path, affinities, block=[8, 8, 8], roi=roi)
    inside = Box((3, 4, 5), (12, 15, 20)).slices
    assert labels[inside].any()
    labels[inside] = 0
    assert not labels.any()


def test_majority_needs_the_share_of_both():
    # 1 and 5 have 6 voxels in common, of 8 and 8; 1 and 6 have 2; 2 has a speck inside 6.
    ours = np.array([1] * 8 + [0] * 2 + [2] * 2 + [3] * 18, np.uint64)
    theirs = np.array([5] * 6 + [6] * 2 + [5] * 2 + [6] * 20, np.uint64)
    slab = contingency(ours, theirs, np.ones(30, bool))
    assert majority(slab, 0.5).T.tolist() == [[1, 5], [3, 6]]
    assert majority(slab, 0.8).T.tolist() == [[3, 6]]
    assert majority(slab, 1.0).T.tolist() == []
    assert majority(slab, 0.1).T.tolist() == [[1, 5], [3, 6]]
    assert majority(slab, 0.05).T.tolist() == [[1, 5], [1, 6], [2, 6], [3, 6]]


def test_waterz_prints_nothing(capfd, tubes):
    agglomerate(tubes[1], Waterz().model_dump())
    assert capfd.readouterr().out == ""


def test_standard_output_survives_threads(capfd, tubes):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: agglomerate(tubes[1], Waterz().model_dump()), range(32)))
    sys.stdout.write("still here, ")
    sys.stdout.flush()
    os.write(1, b"and below")
    assert capfd.readouterr().out == "still here, and below"


@pytest.mark.parametrize("queue", [0, 256])
@pytest.mark.parametrize("name", ["mean", "quantile-10", "quantile-95-max", "size-difference"])
def test_scorings_are_precompiled(monkeypatch, name, queue):
    monkeypatch.setattr("waterz._agglomerate._jit_compile", None)
    affinities = np.full((3, 4, 4, 4), 200, np.uint8)
    options = Waterz(scoring=name, queue=queue).model_dump()
    assert agglomerate(affinities, options).shape == (4, 4, 4)


@pytest.mark.parametrize("name", ["median", "quantile-12", "quantile-100", "quantile-50-min"])
def test_other_scorings_are_refused(name):
    with pytest.raises(ConfigError, match=rf"waterz.scoring is '{name}'; choose mean, quantile"):
        scoring_function(name)


def test_no_affinities_make_no_segments():
    empty = agglomerate(np.zeros((3, 3, 4, 5), np.uint8), Waterz().model_dump())
    assert not empty.any()


def test_a_whole_run_in_threads_equals_its_steps_one_after_the_other(tmp_path, tubes):
    _, affinities = tubes
    alone, _ = run(tmp_path, affinities, block=[8, 12, 14])
    config = configuration(
        tmp_path,
        affinities,
        block=[8, 12, 14],
        output=str(tmp_path / "cluster"),
        voxel_size=[10, 10, 10],
        cluster={"workers": 2, "processes": False},
    )
    run_on_cluster(config, console=Console(file=io.StringIO()))
    labels = open_array(str(tmp_path / "cluster/labels/s0"))
    np.testing.assert_array_equal(labels.read(Box((0, 0, 0), alone.shape)), alone)


def test_it_is_found_in_the_registry():
    assert builder("waterz") is steps
