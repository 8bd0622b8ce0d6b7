"""The demo's data and configuration are what it says; `make demo` runs the rest."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.arrays import create_array, open_array
from pipeline.geometry import Box, Grid, octree
from pipeline.progress import StepProgress
from pipeline.run import RunSummary
from pipeline.volumes import open_volume
from tasks.demo.command import (
    FOLDER,
    HELD_OUT,
    TRUTH,
    demo_config,
    draw_overview,
    report,
    score_against_truth,
)

WHOLE = Box((0, 0, 0), (100, 250, 250))


@pytest.fixture
def config(tmp_path):
    return demo_config(str(tmp_path / "out") + "/", workers=3)


def test_the_data_carry_their_voxel_size_and_their_terms(config):
    raw, truth = open_volume(config.raw), open_volume(TRUTH)
    assert raw.shape == truth.shape == WHOLE.shape
    assert raw.voxel_size == truth.voxel_size == (10.0, 10.0, 10.0)
    assert raw.dtype == np.uint8
    assert np.unique(truth.read(WHOLE)).size == 285
    assert "CREATIVE COMMONS" in (FOLDER / "data/LICENSE.txt").read_text()
    assert "Takemura" in (FOLDER / "data/README.md").read_text()


def test_there_is_something_to_stitch(config):
    grid = Grid(WHOLE, config.block)
    assert len(grid) >= 12
    assert len(octree(grid)) >= 3
    assert config.cluster.workers == 3
    assert not config.output.endswith("/")


def test_truth_against_itself_is_perfect_and_held_out_slices_are_a_part():
    whole, part = score_against_truth(TRUTH), score_against_truth(TRUTH, HELD_OUT)
    assert (whole.voi, part.voi) == (0, 0)
    assert HELD_OUT.n_voxels - 1000 < part.n_voxels <= HELD_OUT.n_voxels < whole.n_voxels


def test_the_report_names_results_scores_and_times(config):
    scores = score_against_truth(TRUTH, HELD_OUT)
    steps = (
        StepProgress("segment", 18, done=18, first=10.0, last=12.5),
        StepProgress("relabel", 18, skipped=18),
    )
    lines = report(config, RunSummary(config.output, "labels", steps), scores, scores).splitlines()
    assert "segment             18           2.5" in lines
    assert "relabel             18   done before" in lines
    assert "VOI split (bits)             0.000             0.000" in lines
    assert f"labels    {config.output}/labels/s0" in lines
    assert f"picture   {config.output}/overview.png" in lines


def test_the_picture_is_drawn_from_what_a_run_wrote(config):
    for name, channels, kind in (("affinities", 3, "image"), ("labels", None, "labels")):
        url = f"{config.output}/{name}/s0"
        create_array(
            url,
            shape=WHOLE.shape,
            dtype=np.uint8,
            block=WHOLE.shape,
            voxel_size=(10.0, 10.0, 10.0),
            channels=channels,
            kind=kind,
        )
        lead = () if channels is None else (channels,)
        open_array(url).write(WHOLE, np.ones((*lead, *WHOLE.shape), np.uint8))
    picture = imread(io.BytesIO(draw_overview(config, score_against_truth(TRUTH))))
    assert picture.shape[1] > picture.shape[0] > 800
