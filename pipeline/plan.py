"""What a run would do, and whether it fits, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.clusters import memory_per_worker
from pipeline.config import Cluster
from pipeline.errors import ConfigError
from pipeline.geometry import Grid, octree, triple
from pipeline.steps import Job, Step


def check_memory(steps: Sequence[Step], cluster: Cluster) -> None:
    """Refuse steps whose blocks do not fit into a worker's memory.

    Raises
    ------
    ConfigError
        Naming the step, what it needs and the limit.
    """
    limit = memory_per_worker(cluster)
    for step in steps:
        if step.peak_bytes > limit:
            raise ConfigError(
                f"a block of step {step.name!r} needs {_bytes(step.peak_bytes)}, and a worker has "
                f"{_bytes(limit)}. Choose a smaller block (it never changes the labels), fewer "
                "cluster.workers, or raise cluster.memory_gib."
            )


def render(job: Job, steps: Sequence[Step]) -> Group:
    """The plan: what is processed, and a line for each step."""
    table = Table(box=None)
    for column in ("step", "blocks", "tiles", "read", "written", "peak memory", "runs on"):
        table.add_column(column, justify="left" if column in {"step", "runs on"} else "right")
    for step in steps:
        tiles = _tiles(step)
        table.add_row(
            step.name,
            str(len(step.grid)),
            "" if tiles is None else str(tiles),
            _bytes(step.bytes_read),
            _bytes(step.bytes_written),
            _bytes(step.peak_bytes),
            step.resource,
        )
    workers, limit = job.config.cluster.workers, memory_per_worker(job.config.cluster)
    return Group(Text(_summary(job)), table, Text(f"{workers} workers of {_bytes(limit)} each"))


def _summary(job: Job) -> str:
    blocks = "x".join(map(str, job.grid.counts))
    levels = len(octree(job.grid))
    return (
        f"{job.config.raw or job.config.affinities}: {_by(job.shape)} voxels of "
        f"{_by(job.voxel_size)} nm (z y x)\n"
        f"processed: {_by(job.roi.shape)} voxels from {_by(job.roi.offset)}, in "
        f"{len(job.grid)} blocks ({blocks}) of {_by(job.config.block)}, {levels} octree levels"
    )


def _by(values: Sequence[float]) -> str:
    return " ".join(f"{value:.7g}" for value in values)


def _tiles(step: Step) -> int | None:
    """Inference tiles of a step that has them."""
    tile = step.params.get("tile")
    if tile is None:
        return None
    return len(Grid(step.grid.roi, triple(tile)))


def _bytes(count: int) -> str:
    """Bytes in binary units.

    Examples
    --------
    >>> _bytes(1536), _bytes(0)
    ('1.5 KiB', '0 B')
    """
    power = min(4, max(0, int(count).bit_length() - 1) // 10)
    unit = ("B", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{count / 1024**power:.{1 if power else 0}f} {unit}"
