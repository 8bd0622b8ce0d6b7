"""Step `stitch`: links and edges across the upper sides of each block.

Everything is read from the planes that `segment` kept: reading one layer of
voxels from a chunked volume would cost whole chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.geometry import Block, Box, Triple, block_name, triple
from pipeline.steps import Counters, Job, Params, Step
from pipeline.tables import Columns, read_table, write_table
from tasks.affinities import FRAME, frame, roi_of
from tasks.agglomerate import lowest
from tasks.coordinates import pack, voxels_at
from tasks.regiongraph import Array, Edges, kind_of, merge_parallel, to_columns


def stitch_faces(
    below: Columns, above: Columns, face: Array, segment: Mapping[str, Any]
) -> tuple[Columns, Columns]:
    """Links and edges between the two planes at the common side of two blocks.

    Parameters
    ----------
    below, above : dict of ndarray
        The lower block's ``upper-d`` and the upper block's ``lower-d`` plane.
    face : ndarray of uint64
        Faces between the two planes, one for each voxel.
    segment : mapping
        `low`, `high` and `linkage`.

    Returns
    -------
    links : dict of ndarray
        Columns a, b: ids that are parts of one fragment.
    edges : dict of ndarray
        Columns of `Edges` in which u and v are ids.
    """
    affinity = above["affinity"]
    linked = below["picked"] | above["picked"]
    if segment["high"] is not None:
        linked = linked | (affinity >= lowest(segment["high"]))
    exists = affinity >= lowest(segment["low"])
    pairs = np.stack((below["id"], above["id"]), axis=1)
    joined = np.unique(pairs[exists & linked], axis=0)
    rest = exists & ~linked
    ids, row = np.unique(pairs[rest], return_inverse=True)
    row = row.reshape(-1, 2)
    kind = kind_of(segment["linkage"])
    edges = merge_parallel(Edges.of_faces(row[:, 0], row[:, 1], affinity[rest], face[rest], kind))
    columns = to_columns(edges)
    columns["u"], columns["v"] = ids[edges.u], ids[edges.v]
    return {"a": joined[:, 0], "b": joined[:, 1]}, columns


def stitch_process(params: Params, block: Block) -> Counters:
    """Join a block to its neighbours on the three upper sides."""
    output, roi, written = params["output"], roi_of(params), 0
    for d in range(3):
        if block.box.end[d] >= roi.end[d]:
            continue
        index = triple(i + (k == d) for k, i in enumerate(block.index))
        below = read_table(output, f"segment/{block.name}/upper-{d}")
        above = read_table(output, f"segment/{block_name(index)}/lower-{d}")
        links, edges = stitch_faces(below, above, _faces(block.box, d), params["segment"])
        written += write_table(output, f"stitch/{block.name}/links-{d}", links)
        written += write_table(output, f"stitch/{block.name}/edges-{d}", edges)
    return {"bytes_written": written}


def _faces(box: Box, d: int) -> Array:
    """Faces between the last layer of `box` along axis d and the next one."""
    offset: Triple = triple(box.end[k] if k == d else box.offset[k] for k in range(3))
    shape = triple(1 if k == d else box.shape[k] for k in range(3))
    n = shape[0] * shape[1] * shape[2]
    faces: Array = pack(voxels_at(np.arange(n), shape, offset)) << np.uint64(2) | np.uint64(d)
    return faces


def stitch_step(job: Job) -> Step:
    """The step over the blocks of a job."""
    segment = job.config.segment
    return Step(
        name="stitch",
        process=stitch_process,
        params={
            **frame(job),
            "segment": {
                "low": segment.low,
                "high": segment.high,
                "linkage": kind_of(segment.linkage),
            },
        },
        grid=job.grid,
        after=("segment",),
        upper=(1, 1, 1),
        trivial=True,
        peak_bytes=3 * 200 * max(job.config.block) ** 2,
        bytes_read=2 * job.grid.inner_faces,
        bytes_written=11 * job.grid.inner_faces,
        paths=FRAME,
        outputs=("tables/stitch/",) if len(job.grid) > 1 else (),
    )
