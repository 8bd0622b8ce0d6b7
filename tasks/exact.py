"""The exact decoder: affinities to labels that do not depend on the blocks.

``segment → merge-0 …``, with ``stitch`` beside it, up the octree; ``assign``
down again; ``relabel``. Each module of that name states its part.
"""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.steps import Job, Step
from tasks.assign import assign_steps
from tasks.merge import merge_steps
from tasks.relabel import relabel_step
from tasks.segment import segment_step
from tasks.segments import segments_step
from tasks.stitch import stitch_step

MAX_BLOCK = 1 << 29
"""Voxels of a block: faces inside a block are counted in 31 bits."""


def steps(job: Job, upstream: list[Step]) -> list[Step]:
    """The steps from affinities to ``labels/s0``.

    Raises
    ------
    ConfigError
        If a block has too many voxels for the kernels' 31-bit faces.
    """
    z, y, x = job.config.block
    if z * y * x >= MAX_BLOCK:
        raise ConfigError(
            f"block {job.config.block} has {z * y * x} voxels, the limit is {MAX_BLOCK - 1}; "
            "choose a smaller block (256 256 256 is usual), it never changes the labels"
        )
    return [
        segment_step(job, after=tuple(step.name for step in upstream)),
        stitch_step(job),
        *merge_steps(job),
        segments_step(job),
        *assign_steps(job),
        relabel_step(job, after=("assign-0",)),
    ]
