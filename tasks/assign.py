"""Steps `assign-L` to `assign-0`: the down-sweep over the octree of blocks.

Every node tells its children what became of the ids that they handed up, so
that in the end each block has a table of its own and no table of the whole
volume ever exists in one memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.errors import TableError
from pipeline.geometry import Block, children, octree
from pipeline.steps import Counters, Job, Params, Step
from pipeline.tables import Columns, read_table, write_table
from tasks.affinities import FRAME, frame
from tasks.merge import levels_of
from tasks.regiongraph import Array
from tasks.segments import consecutive


def lookup(table: Columns, ids: Array) -> Array:
    """Labels of ids in a table with columns id (ascending) and label.

    Raises
    ------
    TableError
        If an id is not in the table.
    """
    at = np.searchsorted(table["id"], ids)
    if len(ids) and (at.max() >= len(table["id"]) or (table["id"][at] != ids).any()):
        raise TableError(
            "the tables of neighbouring octree levels do not fit together: tables of different "
            "runs are mixed. Delete the folders tables/ and done/ of the output and run again."
        )
    labels: Array = table["label"][at]
    return labels


def labels_of_node(params: Params, level: int, node: Block) -> Columns:
    """The label of every id that a node knows: its final ones and its residual."""
    output = params["output"]
    final = read_table(output, f"merge/{level}/{node.name}/final")
    voxels = final["size"] + final["absorbed"]
    label = np.where(voxels >= params["min_size"], final["id"], np.uint64(0))
    ids = final["id"]
    if level < len(levels_of(params)) - 1:
        above = read_table(output, f"assign/{level}/{node.name}")
        ids, label = np.concatenate((ids, above["id"])), np.concatenate((label, above["label"]))
    order = np.argsort(ids)
    return {"id": ids[order], "label": label[order]}


def assign_process(params: Params, block: Block) -> Counters:
    """Write the tables of a node's children, or at level 0 the table of the block."""
    output, level = params["output"], params["level"]
    known = labels_of_node(params, level, block)
    rows = read_table(output, f"merge/{level}/{block.name}/map")
    label = lookup(known, rows["now"])
    if level == 0:
        if params["relabel"] == "consecutive":
            label = consecutive(output, label)
        targets = [f"labels/{block.name}"]
    else:
        below = children(levels_of(params), level, block.index)
        targets = [f"assign/{level - 1}/{child.name}" for child in below]
    written = 0
    for ordinal, target in enumerate(targets):
        chosen = rows["child"] == ordinal
        ids, labels = rows["id"][chosen], label[chosen]
        order = np.argsort(ids)
        written += write_table(output, target, {"id": ids[order], "label": labels[order]})
    return {"bytes_written": written}


def assign_steps(job: Job) -> list[Step]:
    """One step for every level of the octree, root first."""
    levels = octree(job.grid)
    root = len(levels) - 1
    params: dict[str, Any] = {
        **frame(job),
        "min_size": job.config.segment.min_size,
        "relabel": job.config.relabel,
    }
    everything = (job.roi.shape[0], 0, 0)
    steps = []
    for level in range(root, -1, -1):
        numbered = level == 0 and job.config.relabel == "consecutive"
        above = f"merge-{root}" if level == root else f"assign-{level + 1}"
        steps.append(
            Step(
                name=f"assign-{level}",
                process=assign_process,
                params=params | {"level": level},
                grid=levels[level],
                after=(above, "segments") if numbered else (above,),
                # Ranks need the segments of every slab.
                lower=everything if numbered else (0, 0, 0),
                upper=everything if numbered else (0, 0, 0),
                trivial=True,
                peak_bytes=100 << 20,
                bytes_read=10 * levels[level].inner_faces,
                bytes_written=10 * levels[level - 1 if level else 0].inner_faces,
                paths=FRAME,
                outputs=(f"tables/assign/{level - 1}/" if level else "tables/labels/",),
            )
        )
    return steps
