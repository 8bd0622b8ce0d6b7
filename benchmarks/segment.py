"""From stored affinities to written labels, side by side with waterz in memory.

Real predicted affinities of the demo volume are tiled by mirroring to a cube,
stored, and segmented by a whole run (cluster, blocks, octree, labels; no
pyramid) on two workers; waterz segments a smaller cube of the same affinities
in this process, with its own watershed and the same linkage and threshold. The
two take turns, so that the ratio holds on a machine whose speed drifts. Prints
JSON::

    python benchmarks/segment.py --side 512 --waterz-side 256 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
from rich.console import Console

from pipeline.arrays import create_array, open_array
from pipeline.config import Cluster, Config, Segment
from pipeline.geometry import Box, Grid, Triple
from pipeline.run import run
from pipeline.volumes import open_volume
from tasks.demo.command import demo_config
from tasks.waterz_agglomeration import agglomerate

VOXEL_SIZE = (10.0, 10.0, 10.0)
OFFSETS = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]


def demo_affinities(folder: Path) -> npt.NDArray[np.uint8]:
    """Predict the demo volume with the shipped model, or take what is there."""
    run(demo_config(str(folder), workers=2))
    volume = open_volume(f"{folder}/affinities/s0")
    found: npt.NDArray[np.uint8] = volume.read(Box((0, 0, 0), volume.shape))[:3]
    return found


def mirrored(base: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8]:
    """Affinities in `box` of an endless volume made of `base` and its mirror images."""
    voxel, edge = [], []
    for axis in range(3):
        n = base.shape[1 + axis]
        at = np.arange(box.offset[axis], box.end[axis]) % (2 * n)
        voxel.append(np.where(at < n, at, 2 * n - 1 - at))
        # An edge lies at its upper voxel, which is the lower one in the mirror. Where two
        # images meet, the edge next to it stands in.
        edge.append(np.where(at < n, np.maximum(at, 1), np.minimum(2 * n - at, n - 1)))
    return np.stack(
        [base[d][np.ix_(*(edge[a] if a == d else voxel[a] for a in range(3)))] for d in range(3)]
    )


def store_cube(base: npt.NDArray[np.uint8], url: str, side: int, block: Triple) -> None:
    """Write a mirrored cube of affinities as `raphe` itself would."""
    shape = (side, side, side)
    create_array(
        url,
        shape=shape,
        dtype=np.uint8,
        block=block,
        voxel_size=VOXEL_SIZE,
        channels=3,
        attributes={"offsets": OFFSETS},
        kind="image",
    )
    array = open_array(url)
    for part in Grid(Box((0, 0, 0), shape), block):
        array.write(part.box, mirrored(base, part.box))


class PeakMemory:
    """The largest resident size of any child process while it is active."""

    def __enter__(self) -> PeakMemory:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.1):
            for child in me.children(recursive=True):
                try:
                    self.bytes = max(self.bytes, child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue


def time_raphe(affinities: str, block: Triple, segment: Segment, side: int) -> dict[str, float]:
    """Mvoxel/s of a whole run into an empty output, and the largest worker."""
    with tempfile.TemporaryDirectory() as output, PeakMemory() as memory:
        config = Config(
            affinities=affinities,
            output=output + "/segmentation.zarr",
            block=block,
            segment=segment,
            pyramid=0,
            cluster=Cluster(workers=2),
        )
        begin = time.perf_counter()
        summary = run(config, console=Console(quiet=True))
        whole = time.perf_counter() - begin
    steps = summary.steps
    working = max(step.last for step in steps) - min(step.first for step in steps)
    return {
        "run": side**3 / whole / 1e6,
        "steps": side**3 / working / 1e6,
        "peak_worker_gib": memory.bytes / 2**30,
    }


def time_waterz(cube: npt.NDArray[np.uint8], threshold: float) -> float:
    """Mvoxel/s of watershed and mean agglomeration in memory."""
    options = {"scoring": "mean", "queue": 0, "low": 0.0001, "high": 0.9999, "threshold": threshold}
    begin = time.perf_counter()
    agglomerate(cube, options)
    return cube[0].size / (time.perf_counter() - begin) / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--waterz-side", type=int, default=256)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--demo", type=Path, default=Path("out/demo"))
    parser.add_argument("--affinities", type=Path, help="an .npy of uint8 (3, z, y, x) instead")
    options = parser.parse_args()
    base = np.load(options.affinities) if options.affinities else demo_affinities(options.demo)
    segment, block = Segment(), (options.block,) * 3
    small = (options.side // 2,) * 3
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        large_url, small_url = f"{folder}/large/affinities/s0", f"{folder}/small/affinities/s0"
        store_cube(base, large_url, options.side, block)
        store_cube(base, small_url, options.side // 2, block)
        cube = mirrored(base, Box((0, 0, 0), (options.waterz_side,) * 3))
        halves = (options.block // 2,) * 3
        time_raphe(small_url, halves, segment, small[0])  # compiles and warms the caches
        for _ in range(options.rounds):
            raphe = time_raphe(large_url, block, segment, options.side)
            waterz = time_waterz(cube, segment.threshold or 0.5)
            linear = time_raphe(large_url, halves, segment, options.side)
            little = time_raphe(small_url, halves, segment, small[0])
            rounds.append(
                {
                    "raphe_mvoxel_per_s": raphe["run"],
                    "raphe_steps_mvoxel_per_s": raphe["steps"],
                    "waterz_mvoxel_per_s": waterz,
                    "ratio_to_waterz": raphe["run"] / waterz,
                    "peak_worker_gib": raphe["peak_worker_gib"],
                    "large_over_small": linear["steps"] / little["steps"],
                }
            )
    print(
        json.dumps(
            {
                "side": options.side,
                "block": options.block,
                "waterz_side": options.waterz_side,
                "segment": segment.model_dump(mode="json"),
                "median": {
                    name: round(statistics.median(each[name] for each in rounds), 3)
                    for name in rounds[0]
                },
                "rounds": rounds,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
