"""Blocks a second of the schedule, and the driver's memory, with steps that do nothing.

Two steps of n blocks each, the second after the first, with done markers in a
local directory. Prints JSON::

    python benchmarks/schedule.py --blocks 100000
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

import psutil
from rich.console import Console

from pipeline.blocks import Blocks
from pipeline.clusters import open_cluster
from pipeline.config import Cluster
from pipeline.done import review, settle
from pipeline.events import Events
from pipeline.faults import Faults
from pipeline.fingerprint import Keys
from pipeline.geometry import Block, Box, Grid
from pipeline.progress import Progress
from pipeline.schedule import Schedule
from pipeline.steps import Params, Step
from pipeline.store import open_store


def nothing(params: Params, block: Block) -> None:
    """What a block does."""


class Sampled(Progress):
    """Progress that notes the memory of this process now and then."""

    every = 20_000

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.rss_mib: dict[int, float] = {}

    def done(self, step: str, box: Box) -> None:
        """A block is done."""
        super().done(step, box)
        total = sum(state.done for state in self.steps.values())
        if total % self.every == 0:
            self.rss_mib[total] = round(psutil.Process().memory_info().rss / 2**20, 1)


def measure(blocks: int, cluster: Cluster) -> dict[str, object]:
    """Run two steps that have `blocks` blocks together."""
    grid = Grid(Box((0, 0, 0), (1, 100, blocks // 200)), (1, 1, 1))
    steps = [
        Step("first", nothing, {}, grid, trivial=True),
        Step("second", nothing, {}, grid, after=("first",), trivial=True),
    ]
    with tempfile.TemporaryDirectory(prefix="raphe-benchmark-") as output:
        store = open_store(output)
        begin = time.perf_counter()
        keys = Keys(steps, grid.roi, {})
        reviews = review(store, steps, keys)
        settle(store, reviews)
        planning = time.perf_counter() - begin
        progress = Sampled(steps, {}, Console(stderr=True))
        masks = {name: each.mask for name, each in reviews.items()}
        with Blocks(steps, masks) as blocks_, open_cluster(cluster, steps) as workers:
            schedule = Schedule(
                output,
                steps,
                blocks_,
                keys,
                workers,
                retries=0,
                progress=progress,
                faults=Faults(store, Events(store)),
            )
            begin = time.perf_counter()
            schedule.run()
            seconds = time.perf_counter() - begin
        begin = time.perf_counter()
        again = review(store, steps, keys)
        reviewing = time.perf_counter() - begin
    done = sum(each.done for each in again.values())
    return {
        "blocks": done,
        "workers": cluster.workers,
        "processes": cluster.processes,
        "seconds": round(seconds, 2),
        "blocks_per_second": round(done / seconds),
        "seconds_to_plan": round(planning, 2),
        "seconds_to_find_all_done": round(reviewing, 2),
        "driver_rss_mib": progress.rss_mib,
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", action="store_true", help="threads in place of processes")
    arguments = parser.parse_args()
    cluster = Cluster(workers=arguments.workers, processes=not arguments.threads)
    print(json.dumps(measure(arguments.blocks, cluster), indent=1))


if __name__ == "__main__":
    main()
