"""Settings of all tests; real affinities for those that need them."""

import pytest
from hypothesis import settings
from projects import SHAPE, STORED, Project
from results import read_result, write_affinities
from rich.console import Console

from pipeline.done import review
from pipeline.fingerprint import Keys
from pipeline.geometry import Box
from pipeline.job import make_job, make_steps
from pipeline.run import execute
from pipeline.store import open_store
from pipeline.volumes import open_volume
from tasks.demo.command import FOLDER, demo_config

# No test may depend on how busy the machine is.
settings.register_profile("raphe", deadline=None)
settings.load_profile("raphe")


@pytest.fixture(scope="session")
def demo_affinities(tmp_path_factory):
    """URL of what the shipped model predicts for the demo volume: 100 x 250 x 250 voxels.

    What `make demo` left is taken if it is complete and of the same model.
    """
    left = str(FOLDER.parents[1] / "out/demo")
    if not _is_predicted(left):
        left = str(tmp_path_factory.mktemp("demo") / "out")
        job = make_job(demo_config(left, workers=2))
        execute(job, make_steps(job)[:1], console=Console(quiet=True))
    return f"{left}/affinities/s0"


def _is_predicted(output):
    job = make_job(demo_config(output, workers=2))
    steps = make_steps(job)[:1]
    keys = Keys(steps, Box((0, 0, 0), job.shape), job.identity)
    found = review(open_store(output), steps, keys)["predict"]
    return found.done == found.total


@pytest.fixture(scope="session")
def crop(demo_affinities):
    box = Box((30, 70, 80), SHAPE)
    return open_volume(demo_affinities).read(box)


@pytest.fixture
def begin(crop):
    """Begin a project in a folder, with the crop or with other affinities."""

    def begin(folder, affinities=crop, **fields):
        write_affinities(str(folder / "em.zarr/s0"), affinities, STORED)
        given = {
            "affinities": "em.zarr/s0",
            "output": "seg.zarr",
            "block": list(STORED),
            "cluster": {"workers": 2, "processes": False},
        }
        return Project(folder, given | fields)

    return begin


@pytest.fixture
def project(begin, tmp_path):
    return begin(tmp_path)


@pytest.fixture(scope="session")
def expected(crop, tmp_path_factory):
    """The result of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("expected")
    write_affinities(str(folder / "em.zarr/s0"), crop, SHAPE)
    fields = {"affinities": "em.zarr/s0", "output": "seg.zarr", "block": list(SHAPE)}
    project = Project(folder, fields | {"cluster": {"workers": 1, "processes": False}})
    project.run()
    result = read_result(project.output)
    assert len(result.segments["id"]) > 10
    return result
