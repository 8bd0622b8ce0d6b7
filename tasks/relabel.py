"""Step `relabel`: a block's supervoxels through the block's table to labels.

Every decoder ends here: it leaves ``fragments/s0`` and for each block a table
``labels/<block>`` with columns id (ascending) and label.
"""

from __future__ import annotations

import numpy as np

from pipeline.arrays import create_array, open_array
from pipeline.geometry import Block
from pipeline.steps import Counters, Job, Params, Step
from pipeline.tables import read_table
from tasks.affinities import FRAME, frame
from tasks.kernels.relabel import map_runs
from tasks.segments import count_segments


def relabel_process(params: Params, block: Block) -> Counters:
    """Write the labels of one block."""
    output = params["output"]
    target = open_array(f"{output}/labels/s0")
    fragments = open_array(f"{output}/fragments/s0").read(block.box)
    table = read_table(output, f"labels/{block.name}")
    labels = np.empty(fragments.shape, target.dtype)
    unknown = map_runs(fragments, table["id"], table["label"].astype(target.dtype), labels)
    if unknown:
        raise RuntimeError(
            f"block {block.name} holds supervoxel {unknown}, which its table does not name: "
            "please report this"
        )
    target.write(block.box, labels)
    return {"bytes_read": fragments.nbytes, "bytes_written": labels.nbytes}


def relabel_prepare(params: Params) -> None:
    """Create the array of labels: uint32 for consecutive labels where it fits, else uint64."""
    output = params["output"]
    small = params["relabel"] == "consecutive" and count_segments(output) < 1 << 32
    dtype = np.uint32 if small else np.uint64
    create_array(f"{output}/labels/s0", dtype=dtype, kind="labels", **params["array"])


def relabel_step(job: Job, after: tuple[str, ...]) -> Step:
    """The step over the blocks of a job, once `after` has written the blocks' tables."""
    z, y, x = job.config.block
    return Step(
        name="relabel",
        process=relabel_process,
        params={**frame(job), "relabel": job.config.relabel},
        grid=job.grid,
        after=after,
        prepare=relabel_prepare,
        peak_bytes=4 * 8 * z * y * x,
        bytes_read=8 * job.roi.n_voxels,
        bytes_written=8 * job.roi.n_voxels,
        paths=FRAME,
        outputs=("labels/s0/",),
    )
