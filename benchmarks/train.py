"""How quickly a network is trained, against the bare network on one batch; prints JSON.

    python benchmarks/train.py [CONFIG] [--steps 40] [--rounds 4] [--workers N] [--device auto]

The configuration is the shipped model's by default, which learns from FIB-25
(`../shared/data/fib25/train.npz`). The whole loop is all that a step of `raphe train` does,
validation aside: crops, augmentations, targets, network, losses, clipping, optimiser and moving
average. The bare loop has the same network and optimiser, but learns from one batch that is always
there, by the mean square of its outputs. They take turns in one process; no crops are made while
the bare one is timed. Weights begin at random, whatever `init` says.

For `whole` and `bare`: `patches_per_second` (crops) and `mvoxel_per_second` (of their cores), by
the median of the rounds; `seconds` of a step in each round. `ratio`: the whole loop's speed over
the bare one's. `waiting_share`: the part of the whole loop's time in which the network waited for
data (a GPU that is still at work does not). `workers` are processes that make crops; 0: a thread.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import tasks  # noqa: F401 - sets what torch reads when it is loaded

# isort: split
import torch

from tasks.train.config import Training, load
from tasks.train.crops import Crops
from tasks.train.data import normalisation
from tasks.train.distributed import Team, team
from tasks.train.feed import Feed
from tasks.train.learn import Learner
from tasks.train.loop import tensors
from tasks.train.state import create

WARM = 2
"""Steps of a round before it is timed."""


class Whole:
    """Steps as `raphe train` takes them."""

    def __init__(self, config: Training, found: Team) -> None:
        self.config, self.device, self.waited = config, found.device, 0.0
        self.learner = Learner(config, create(config, found.device), found)
        self.crops = Crops(
            config.training,
            voxel_size=config.voxel_size,
            core=config.crop,
            context=config.network.context,
            heads=config.heads,
            augmentations=config.augmentations,
            scaling=normalisation(config.training, config.voxel_size)[0],
            dust=config.dust,
            seed=config.seed,
        )

    def time(self, steps: int) -> float:
        """Seconds of some steps."""
        first, waits = self.learner.state.step, []
        with Feed(self.crops, self.config.batch, first, workers=self.config.workers) as feed:
            seconds = timed(lambda: waits.append(self.step(feed)), steps, self.device)
        self.waited += sum(waits[WARM:])
        return seconds

    def step(self, feed: Feed) -> float:
        """Learn from the next batch; seconds that the network waited for it."""
        before = feed.waited
        batch = next(feed)
        waited = (feed.waited - before) * self.learner.is_idle()
        self.learner.step(tensors(batch, self.device), 0.001)
        return waited


def bare_step(config: Training, device: torch.device, raw: torch.Tensor) -> Callable[[], None]:
    """What takes the network forward and back on one batch, and then the optimiser."""
    state = create(config, device)
    deep = state.network.train().deep
    raw = raw.to(device).contiguous(memory_format=torch.channels_last_3d)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            levels: list[dict[str, torch.Tensor]] = deep(raw)
        squares = [logits.float().square().mean() for level in levels for logits in level.values()]
        state.optimiser.zero_grad(set_to_none=True)
        torch.stack(squares).sum().backward()
        state.optimiser.step()

    return step


def timed(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Seconds of some steps, after those that warm up."""
    times = []
    for count in (WARM, steps):
        for _ in range(count):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
    return times[1] - times[0]


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("config", nargs="?", default="tasks/models/fib25-affinities/train.yaml")
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each loop")
    parser.add_argument("--rounds", type=int, default=4, help="turns that the two loops take")
    parser.add_argument("--workers", type=int, help="processes that make crops")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options = parser.parse_args()
    config = load(options.config)
    workers = config.workers if options.workers is None else options.workers
    config = config.model_copy(update={"init": None, "device": options.device, "workers": workers})
    steps = max(1, options.steps // options.rounds)
    with team(config.device) as found:
        whole = Whole(config, found)
        raw = torch.from_numpy(whole.crops.batch(0, range(config.batch))["raw"])
        bare = bare_step(config, found.device, raw)
        times: dict[str, list[float]] = {"whole": [], "bare": []}
        for _ in range(options.rounds):
            times["whole"].append(whole.time(steps) / steps)
            times["bare"].append(timed(bare, steps, found.device) / steps)
    result: dict[str, Any] = {"device": found.device.type, "threads": torch.get_num_threads()}
    result |= config.model_dump(include={"workers", "crop", "batch", "precision"})
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in times.items():
        patches = config.batch / medians[name]
        result[name] = {
            "patches_per_second": round(patches, 3),
            "mvoxel_per_second": round(patches * math.prod(config.crop) / 1e6, 4),
            "seconds": [round(each, 4) for each in seconds],
        }
    result["ratio"] = round(medians["bare"] / medians["whole"], 3)
    result["waiting_share"] = round(whole.waited / (steps * sum(times["whole"])), 4)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
