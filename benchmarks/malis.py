"""The share of the MALIS loss in a training step of the shipped network; prints JSON.

A step is the network, forward and backward, the losses bce and malis on the
affinities of nearest neighbours, and the optimiser. The share of malis is its
value and its gradient with respect to the logits, against the whole step, each
the median of the steps.

    python benchmarks/malis.py [--raw ../shared/data/fib25/train.npz:/raw]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import tasks  # noqa: F401 - sets what torch reads when it is loaded

# isort: split
import torch

from tasks.augmentations.spatial import Elastic, Flip
from tasks.losses.bce import BalancedBce
from tasks.losses.malis import Malis
from tasks.networks.model import find_model, read_description
from tasks.parts import Lesson
from tasks.targets.affinities import NEAREST, Affinities
from tasks.train.crops import Crops
from tasks.train.data import Truth, normalisation

FIB25 = "../shared/data/fib25/train.npz"


def main() -> None:
    """Measure, and print JSON."""
    arguments = parse()
    network = read_description(find_model("fib25-affinities")).network
    head = Affinities(offsets=NEAREST)
    truth = Truth(raw=arguments.raw, labels=arguments.labels)
    voxel_size = (10.0, 10.0, 10.0)
    crops = Crops(
        [truth],
        voxel_size=voxel_size,
        core=(arguments.side,) * 3,
        context=network.context,
        heads={"affinities": head},
        augmentations=[Flip(), Elastic()],
        scaling=normalisation([truth], voxel_size)[0],
        dust=100,
        seed=0,
    )
    torch.manual_seed(0)
    module = network.build({"affinities": head.channels}, plain=False)
    module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
    times: dict[str, list[float]] = {"step": [], "malis": []}
    for step in range(arguments.steps + 1):
        found = one_step(crops, step, module, head, optimiser)
        if step:  # the first one loads and compiles
            for name, seconds in found.items():
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "core": arguments.side,
        "threads": torch.get_num_threads(),
        "steps": arguments.steps,
        "step_seconds": round(medians["step"], 4),
        "malis_seconds": round(medians["malis"], 4),
        "malis_share": round(medians["malis"] / medians["step"], 4),
    }
    print(json.dumps(result))


def one_step(
    crops: Crops,
    step: int,
    module: torch.nn.Module,
    head: Affinities,
    optimiser: torch.optim.Optimizer,
) -> dict[str, float]:
    """Seconds of a step, and of the part of malis in it."""
    batch = {name: torch.from_numpy(array) for name, array in crops.batch(step, [0]).items()}
    known = batch["affinities.known"]
    lesson = Lesson(batch["affinities"], known, batch["labels"], head)
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        raw = batch["raw"].contiguous(memory_format=torch.channels_last_3d)
        logits = module(raw)["affinities"]
    # The gradient stops here, so that the losses' own work can be told from the network's.
    shown = logits.detach().requires_grad_()
    before = time.perf_counter()
    Malis()(shown, lesson).backward()
    malis = time.perf_counter() - before
    BalancedBce()(shown, lesson).backward()
    logits.backward(shown.grad)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return {"step": time.perf_counter() - began, "malis": malis}


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", default=f"{FIB25}:/raw", help="uint8, voxels of 10 nm")
    parser.add_argument("--labels", default=f"{FIB25}:/gt")
    parser.add_argument("--side", type=int, default=64, help="voxels of the core along an axis")
    parser.add_argument("--steps", type=int, default=6)
    return parser.parse_args()


if __name__ == "__main__":
    main()
