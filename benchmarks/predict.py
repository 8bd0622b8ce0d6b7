"""The predict step against the bare network on the same tiles; prints JSON.

The step reads raw data from zarr, mirrors, normalises, predicts, quantises and
writes zarr. The bare network gets the same tiles, already normalised and in
memory, and its output is dropped. The two take turns in one process; what is
reported are medians.

    python benchmarks/predict.py --raw ../shared/data/fib25/raw520.npz:/raw
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tasks  # noqa: F401 - sets what torch reads when it is loaded

# isort: split
import numpy as np
import torch

from pipeline.arrays import create_array, open_array
from pipeline.config import Config, Predict
from pipeline.geometry import Box, triple
from pipeline.steps import Job, Step
from pipeline.volumes import open_volume
from tasks import predict
from tasks.networks.model import find_model, load_network
from tasks.networks.predictor import find_device
from tasks.tiles import cores, read_mirrored

VOXELS = (10.0, 10.0, 10.0)


def main() -> None:
    """Measure, and print JSON."""
    arguments = parse()
    shape = triple([arguments.side] * 3)
    with tempfile.TemporaryDirectory() as folder:
        step = prepared(Path(folder), arguments, shape)
        bare = Bare(step, arguments, shape)
        n_voxels = sum(tile.n_voxels for tile in bare.tiles)
        times: dict[str, list[float]] = {"step": [], "bare": []}
        cpu: dict[str, list[float]] = {"step": [], "bare": []}
        for repeat in range(arguments.repeats + 1):
            for name, run in (("step", lambda: run_step(step)), ("bare", bare.run)):
                seconds, cpu_seconds = timed(run)
                if repeat:  # the first one loads and compiles
                    times[name].append(seconds)
                    cpu[name].append(cpu_seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "device": str(find_device(arguments.device)),
        "precision": arguments.precision,
        "threads": torch.get_num_threads(),
        "shape": shape,
        "tile": step.params["tile"],
        "tiles": len(bare.tiles),
        "seconds": times,
        "cpu_seconds": cpu,
        "step_mvoxel_per_second": n_voxels / medians["step"] / 1e6,
        "bare_mvoxel_per_second": n_voxels / medians["bare"] / 1e6,
        "ratio": medians["bare"] / medians["step"],
        "cpu_ratio": statistics.median(cpu["bare"]) / statistics.median(cpu["step"]),
    }
    print(json.dumps(result, indent=2))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", default="../shared/data/fib25/raw520.npz:/raw")
    parser.add_argument("--model", default="fib25-affinities")
    parser.add_argument("--side", type=int, default=256, help="voxels on each axis")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="bfloat16")
    return parser.parse_args()


def prepared(folder: Path, arguments: argparse.Namespace, shape: tuple[int, int, int]) -> Step:
    """The step for a zarr copy of the corner of the raw volume, ready to run."""
    box = Box((0, 0, 0), shape)
    url = f"{folder}/raw.zarr/s0"
    create_array(url, shape=shape, dtype=np.uint8, block=shape, voxel_size=VOXELS, kind="image")
    open_array(url).write(box, open_volume(arguments.raw, voxel_size=VOXELS).read(box))
    config = Config(
        raw=url,
        model=arguments.model,
        output=f"{folder}/out.zarr",
        block=shape,
        predict=Predict(device=arguments.device, precision=arguments.precision),
        cluster={"workers": 1},
    )
    (step,) = predict.steps(Job(config, shape, VOXELS, (0.0, 0.0, 0.0), box), [])
    assert step.prepare is not None
    step.prepare(step.params)
    return step


def run_step(step: Step) -> None:
    """Predict all blocks, from zarr to zarr."""
    for block in step.grid:
        step.process(step.params, block)


class Bare:
    """The network alone, with its input in memory."""

    def __init__(self, step: Step, arguments: argparse.Namespace, shape: tuple[int, int, int]):
        description, network = load_network(find_model(arguments.model))
        self.device = find_device(arguments.device)
        self.head = step.params["head"]
        dtype = getattr(torch, arguments.precision)
        self.network = network.to(self.device, dtype).to(memory_format=torch.channels_last_3d)
        box = Box((0, 0, 0), shape)
        architecture = description.network
        self.tiles = cores(box, box, triple(step.params["tile"]), architecture.stride)
        raw = open_volume(step.params["raw"])
        context, scaling = architecture.context, description.normalisation
        self.inputs = []
        for tile in self.tiles:
            voxels = read_mirrored(raw.read, shape, tile.grow(context, context))
            normalised = (torch.from_numpy(voxels).float() - scaling.mean) / scaling.std
            x = normalised.to(self.device, dtype)[None, None]
            self.inputs.append(x.contiguous(memory_format=torch.channels_last_3d))

    def run(self) -> None:
        """Predict all tiles and drop the results."""
        with torch.inference_mode():
            for x in self.inputs:
                self.network.heads[self.head](self.network.features(x))
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Seconds that `run` takes, and those of all cores, which other programs disturb less."""
    begun, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - begun, time.process_time() - cpu


if __name__ == "__main__":
    main()
