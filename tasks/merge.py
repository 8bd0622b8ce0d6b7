"""Steps `merge-0` to `merge-L`: the up-sweep over the octree of blocks.

A node takes the residuals of its children (at level 0: its block's own graph),
joins them by the stitch tables that lie inside it and in none of its children,
runs the three phases, writes out what is final and hands the rest up. The
residual holds what touches the node's sides and what hangs on it, so it grows
like the surface.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.errors import TableError
from pipeline.geometry import Block, Grid, Triple, block_name, children, octree, triple
from pipeline.steps import Counters, Job, Params, Step
from pipeline.tables import Columns, concatenate, read_table, write_table
from tasks.affinities import FRAME, frame, roi_of
from tasks.agglomerate import agglomerate
from tasks.coordinates import open_sides, touches_open_side, tree_rows
from tasks.kernels.unionfind import components
from tasks.regiongraph import (
    Array,
    Edges,
    Nodes,
    bytes_of_edges,
    edges_from,
    join_edges,
    join_nodes,
    kind_of,
    merge_parallel,
    nodes_from,
    stack,
    to_columns,
)

RESIDUAL = 350
"""Bytes that go up for each voxel face between nodes, both sides together; measured on FIB-25."""

NO_ALIAS: Columns = {
    "id": np.empty(0, np.uint64),
    "row": np.empty(0, np.int32),
    **{f"{side}_{d}": np.empty(0, np.int32) for side in ("lower", "upper") for d in range(3)},
}
"""Where the supervoxels of blocks that touch an open side of a node are now:
their id and bounding box in the block, and their row in the node's residual."""


@dataclass
class Union:
    """The graphs of a node's children side by side.

    `child` and `child_id` tell for every row whose it was and how it was called.
    """

    nodes: Nodes
    edges: Edges
    alias: Columns
    child: Array
    child_id: Array


def levels_of(params: Params) -> list[Grid]:
    """The octree of a step's region of interest."""
    return octree(Grid(roi_of(params), triple(params["array"]["block"])))


def read_union(params: Params, level: int, node: Block) -> Union:
    """What the children of a node handed up; at level 0 the block's own graph."""
    output, kind = params["output"], kind_of(params["segment"]["linkage"])
    if level == 0:
        names = [f"segment/{node.name}"]
    else:
        below = children(levels_of(params), level, node.index)
        names = [f"merge/{level - 1}/{child.name}" for child in below]
    parts = [
        (
            nodes_from(read_table(output, f"{name}/nodes")),
            edges_from(read_table(output, f"{name}/edges"), kind),
        )
        for name in names
    ]
    nodes = stack([part[0] for part in parts], Nodes.empty())
    aliases, offset = [], 0
    for name, (child_nodes, _) in zip(names, parts, strict=True):
        if level > 0:
            alias = read_table(output, f"{name}/alias")
            alias["row"] = alias["row"] + np.int32(offset)
            aliases.append(alias)
        offset += len(child_nodes)
    if level == 0:
        aliases.append(_own_alias(nodes))
    sizes = [len(part[0]) for part in parts]
    return Union(
        nodes=nodes,
        edges=join_edges(parts, kind),
        alias=concatenate(aliases, NO_ALIAS),
        child=np.repeat(np.arange(len(parts), dtype=np.int8), sizes),
        child_id=nodes.id,
    )


def _own_alias(nodes: Nodes) -> Columns:
    return {
        "id": nodes.id,
        "row": np.arange(len(nodes), dtype=np.int32),
        **{f"lower_{d}": nodes.lower[:, d] for d in range(3)},
        **{f"upper_{d}": nodes.upper[:, d] for d in range(3)},
    }


def inner_sides(params: Params, level: int, node: Block) -> Iterator[tuple[Triple, int]]:
    """Blocks, each with an axis, whose upper side lies between two children of a node."""
    grid = levels_of(params)[0]
    half = 1 << (level - 1)
    for block in grid.overlapping(node.box):
        for d in range(3):
            upper = triple(i + (k == d) for k, i in enumerate(block.index))
            ordinal = block.index[d] - grid.first[d]
            if ordinal % (2 * half) == half - 1 and upper in grid:
                yield block.index, d


def join_children(params: Params, level: int, node: Block, union: Union) -> tuple[Union, Array]:
    """Apply the stitch tables between the children.

    Returns
    -------
    joined : Union
        Nodes that are parts of one fragment are one; edges across sides added.
    row : ndarray of int32
        For every row of `union`, its row in `joined`.
    """
    output, kind = params["output"], kind_of(params["segment"]["linkage"])
    tables = [(f"stitch/{block_name(index)}", d) for index, d in inner_sides(params, level, node)]
    links = concatenate(
        (read_table(output, f"{name}/links-{d}") for name, d in tables),
        {"a": np.empty(0, np.uint64), "b": np.empty(0, np.uint64)},
    )
    order = np.argsort(union.alias["id"])
    ids, rows = union.alias["id"][order], union.alias["row"][order]
    root = components(len(union.nodes), _rows(ids, rows, links["a"]), _rows(ids, rows, links["b"]))
    nodes, row = join_nodes(union.nodes, root)
    edges = [union.edges]
    edges[0].u, edges[0].v = row[edges[0].u], row[edges[0].v]
    for name, d in tables:
        found = edges_from(read_table(output, f"{name}/edges-{d}"), kind)
        found.u, found.v = row[_rows(ids, rows, found.u)], row[_rows(ids, rows, found.v)]
        edges.append(found)
    alias = union.alias | {"row": row[union.alias["row"]]}
    joined = Union(
        nodes, merge_parallel(stack(edges, Edges.empty(kind))), alias, union.child, union.child_id
    )
    return joined, row


def _rows(ids: Array, rows: Array, wanted: Array) -> Array:
    """Rows of supervoxels by their ids in the blocks; `ids` ascend."""
    at = np.searchsorted(ids, wanted)
    if len(wanted) and (at.max() >= len(ids) or (ids[at] != wanted).any()):
        raise TableError(
            "stitch tables name supervoxels that the blocks do not have: tables of different "
            "runs are mixed. Delete the folders tables/ and done/ of the output and run again."
        )
    found: Array = rows[at]
    return found


def merge_process(params: Params, block: Block) -> Counters:
    """Merge one octree node and write what is final, what is not, and who became what."""
    level, roi = params["level"], roi_of(params)
    union = read_union(params, level, block)
    row = np.arange(len(union.nodes), dtype=np.int32)
    if level > 0:
        union, row = join_children(params, level, block, union)
    box = block.box
    sides = (box.offset, box.end, open_sides(box, roi))
    nodes = union.nodes
    incomplete = touches_open_side(nodes.lower, nodes.upper, *sides)
    outcome = agglomerate(nodes, union.edges, incomplete, params["segment"])
    alias = union.alias
    lower = np.stack([alias[f"lower_{d}"] for d in range(3)], axis=1)
    upper = np.stack([alias[f"upper_{d}"] for d in range(3)], axis=1)
    outside = touches_open_side(lower, upper, *sides)
    handed = {name: column[outside] for name, column in alias.items()}
    handed["row"] = outcome.row[handed["row"]]
    tables: dict[str, Columns] = {
        "final": to_columns(outcome.final),
        "nodes": to_columns(outcome.residual),
        "edges": to_columns(outcome.edges),
        "alias": handed,
        "map": {"child": union.child, "id": union.child_id, "now": outcome.id[row]},
        "merges": tree_rows(outcome.merges),
    }
    output = params["output"]
    written = sum(
        write_table(output, f"merge/{level}/{block.name}/{name}", columns)
        for name, columns in tables.items()
    )
    return {"bytes_written": written, "residual_edges": len(outcome.edges)}


def merge_steps(job: Job) -> list[Step]:
    """One step for every level of the octree."""
    segment = job.config.segment.model_dump(mode="json")
    used = ("low", "supervoxel", "linkage", "threshold", "absorb_size")
    levels = octree(job.grid)
    return [
        Step(
            name=f"merge-{level}",
            process=merge_process,
            params={
                **frame(job),
                "level": level,
                "segment": {key: segment[key] for key in used},
            },
            grid=grid,
            after=("segment",) if level == 0 else (f"merge-{level - 1}", "stitch"),
            peak_bytes=bytes_of_edges(_voxels(grid.block, level), segment),
            bytes_read=3 * job.roi.n_voxels // 2
            if level == 0
            else RESIDUAL * levels[level - 1].inner_faces,
            bytes_written=RESIDUAL * grid.inner_faces,
            paths=FRAME,
            outputs=(f"tables/merge/{level}/",),
        )
        for level, grid in enumerate(levels)
    ]


def _voxels(block: Triple, level: int) -> int:
    """Estimate: those of a block, above it those at the surface of a node's children."""
    voxels = block[0] * block[1] * block[2]
    surface = 2 * 8 * sum(voxels // side for side in block)
    return voxels if level == 0 else min(voxels, surface)
