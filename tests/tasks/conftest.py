"""Run the exact decoder's steps without a cluster, in any order that is allowed."""

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pipeline.arrays import create_array, open_array
from pipeline.config import Config, Segment
from pipeline.geometry import Box, Grid
from pipeline.steps import Job
from pipeline.store import open_store
from pipeline.tables import decode
from tasks import exact
from tasks.segments import read_segment_table


@dataclass
class Result:
    labels: np.ndarray
    segments: dict[str, np.ndarray]
    merges: np.ndarray
    output: str


def write_affinities(output: str, affinities: np.ndarray, block: tuple[int, int, int]) -> None:
    shape = affinities.shape[1:]
    url = f"{output}/affinities/s0"
    create_array(
        url,
        shape=shape,
        dtype=np.uint8,
        block=block,
        voxel_size=(10.0, 10.0, 10.0),
        channels=3,
        kind="image",
    )
    array = open_array(url)
    for part in Grid(Box((0, 0, 0), shape), block):
        array.write(part.box, affinities[(slice(None), *part.box.slices)])


def merge_tree(output: str) -> np.ndarray:
    """All merges of a run as sorted rows (a, b, phase, numerator, denominator)."""
    store = open_store(output)
    rows = []
    for name in store.list("tables/"):
        if name.endswith("/merges.arrow"):
            columns = decode(store.read(name), name)
            rows.append(np.stack([columns[key].astype(np.int64) for key in columns], axis=1))
    tree = np.concatenate(rows)
    return tree[np.lexsort(tree.T)]


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
        write_affinities(output, affinities, block)
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
        labels = open_array(f"{output}/labels/s0").read(Box((0, 0, 0), shape))
        return Result(labels, read_segment_table(output), merge_tree(output), output)

    return run
