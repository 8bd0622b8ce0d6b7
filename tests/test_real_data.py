"""The promise on real data: predicted affinities, cut and run in many ways, one result."""

import pytest
from results import assert_same, read_result
from rich.console import Console

from pipeline.config import Config
from pipeline.run import run

WHOLE = (100, 250, 250)

THREAD, THREADS = {"workers": 1, "processes": False}, {"workers": 2, "processes": False}
PROCESS, PROCESSES = {"workers": 1}, {"workers": 2}

CUTS = [
    ((37, 91, 64), THREAD),
    ((37, 91, 64), THREADS),
    ((37, 91, 64), PROCESS),
    ((37, 91, 64), PROCESSES),
    ((50, 84, 84), THREADS),
    ((64, 64, 64), THREADS),
    ((100, 33, 250), THREADS),
    ((19, 250, 127), THREADS),
    ((99, 249, 249), THREADS),
]
"""Blocks that divide no side, slabs, columns, and blocks with slivers of one voxel beside them."""


@pytest.fixture(scope="module")
def segmented(demo_affinities, tmp_path_factory):
    def segment(block, cluster):
        output = str(tmp_path_factory.mktemp("cut") / "out")
        config = Config(
            affinities=demo_affinities, output=output, block=block, pyramid=0, cluster=cluster
        )
        run(config, console=Console(quiet=True))
        return read_result(output)

    return segment


@pytest.fixture(scope="module")
def uncut(segmented):
    return segmented(WHOLE, THREAD)


def test_there_is_something_to_cut(uncut):
    """Segments reach across many blocks, and all three phases have merged some."""
    table = uncut.segments
    assert len(table["id"]) > 100
    assert (table["z1"] - table["z0"]).max() == 100
    assert set(uncut.merges[:, 2]) == {1, 2, 3}


@pytest.mark.parametrize(("block", "cluster"), CUTS)
def test_labels_segments_and_merges_are_those_of_the_uncut_volume(segmented, uncut, block, cluster):
    assert_same(segmented(block, cluster), uncut)
