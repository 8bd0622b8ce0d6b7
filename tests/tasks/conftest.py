"""The exact decoder without a cluster, in any order that is allowed; and small trainings."""

import functools
import random
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from results import Result, read_result, write_affinities
from trainings import configuration

from pipeline.config import Config, Segment
from pipeline.geometry import Box
from pipeline.steps import Job
from tasks import exact


@pytest.fixture(scope="session")
def run_serially() -> Callable[..., Result]:
    def run(
        affinities: np.ndarray,
        block: tuple[int, int, int],
        segment: Segment,
        seed: int = 0,
        twice: bool = False,
        **config: Any,
    ) -> Result:
        output = f"memory://{uuid.uuid4().hex}"
        shape = affinities.shape[1:]
        write_affinities(f"{output}/affinities/s0", affinities, block)
        roi = Box((0, 0, 0), shape)
        if "roi" in config:
            roi = Box(tuple(config["roi"]["offset"]), tuple(config["roi"]["shape"]))
        settings = Config(
            raw="raw", model="model", output=output, block=block, segment=segment, **config
        )
        job = Job(settings, shape, (10.0, 20.0, 30.0), (0.0, 5.0, 0.0), roi)
        order = random.Random(seed)
        for step in exact.steps(job, []):
            step.prepare and step.prepare(step.params)
            blocks = list(step.grid) * (2 if twice else 1)
            order.shuffle(blocks)
            for part in blocks:
                step.process(step.params, part)
        return read_result(output)

    return run


@pytest.fixture
def one_thread():
    """Threads only get into each other's way in networks of the tests' size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(tmp_path):
    """Make the configuration of a training that takes a second, with some fields of its own."""
    return functools.partial(configuration, tmp_path)
