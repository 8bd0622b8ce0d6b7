"""Settings of all tests; real affinities for those that need them."""

import pytest
from hypothesis import settings
from rich.console import Console

from pipeline.done import review
from pipeline.fingerprint import Keys
from pipeline.geometry import Box
from pipeline.job import make_job, make_steps
from pipeline.run import execute
from pipeline.store import open_store
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
