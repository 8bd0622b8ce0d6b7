"""Step `segment`: fragments, supervoxels and the region graph inside each block.

A block reads its own affinities and one more voxel on its upper sides. It
writes its volume of supervoxels under ids that are provisional at its sides,
their graph, the merges it made, and the planes that neighbours need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.arrays import create_array, open_array
from pipeline.geometry import Block, Box
from pipeline.steps import Counters, Job, Params, Step
from pipeline.tables import Columns, write_table
from tasks.affinities import FRAME, affinity_params, frame, reach_below, read_affinities, roi_of
from tasks.agglomerate import lowest
from tasks.coordinates import (
    global_faces,
    open_sides,
    pack,
    touches_open_side,
    tree_rows,
    voxels_at,
)
from tasks.kernels.fragments import Fragments, grow_fragments
from tasks.kernels.regions import measure_edges, measure_nodes, take
from tasks.kernels.supervoxels import link_faces, sort_faces
from tasks.regiongraph import NO_STATS, Array, Edges, Nodes, bytes_of_edges, kind_of, to_columns


@dataclass(frozen=True)
class BlockGraph:
    """What is known of one block without its neighbours.

    Attributes
    ----------
    index : ndarray of int32, (z, y, x)
        0 for background, else 1 + row of the supervoxel in `nodes`.
    nodes, edges
        The region graph; ids ascend.
    merges : dict of ndarray
        Columns face, phase, numerator, denominator of the merges of phase 1.
    planes : dict of dict of ndarray
        ``lower-d`` and ``upper-d`` for each axis d: columns id, picked, and
        for the lower ones affinity, of the voxels of that side in C order.
    """

    index: Array
    nodes: Nodes
    edges: Edges
    merges: Columns
    planes: dict[str, Columns]


def segment_block(affinities: Array, box: Box, roi: Box, segment: Mapping[str, Any]) -> BlockGraph:
    """Everything that can be said of a block from its own affinities.

    Parameters
    ----------
    affinities : ndarray of uint8, (3, z + 1, y + 1, x + 1)
        Of the block and one voxel beyond its upper sides, 0 where an edge may not be.
    box, roi : Box
        The block's voxels, and those of the whole run.
    segment : mapping
        `low`, `high`, `supervoxel` and `linkage` of the configuration.
    """
    low = lowest(segment["low"])
    high = 256 if segment["high"] is None else max(low, lowest(segment["high"]))
    fragments = Fragments(*grow_fragments(affinities, low, high))
    index, through, merges = _supervoxels(fragments, affinities, box, roi, segment)
    n = int(index.max(initial=0))
    size, lower, upper, total, first = measure_nodes(index, n)
    offset = np.array(box.offset)
    nodes = Nodes(
        id=pack(voxels_at(first, box.shape, box.offset)) + np.uint64(1),
        size=size,
        absorbed=np.zeros(n, np.int64),
        lower=(lower + offset).astype(np.int32),
        upper=(upper + offset).astype(np.int32),
        total=total + size[:, None] * offset,
        stage=np.where(through, 2, 1).astype(np.int8),
    )
    kind = kind_of(segment["linkage"])
    u, v, stats, tie, face, affinity = measure_edges(index, affinities, low, NO_STATS[kind])
    face = global_faces(face, box.shape, box.offset)
    tie = global_faces(tie, box.shape, box.offset)
    edges = Edges(u, v, stats, tie, affinity, face, affinity, face)
    planes = _planes(index, nodes.id, affinities, fragments)
    return BlockGraph(index, nodes, edges, merges, planes)


def _supervoxels(
    fragments: Fragments, affinities: Array, box: Box, roi: Box, segment: Mapping[str, Any]
) -> tuple[Array, Array, Columns]:
    """Phase 1 on fragments, in place: the index, who is through with it, and the merges."""
    index, supervoxel = fragments.volume, segment["supervoxel"]
    merges: Columns = {
        "face": np.empty(0, np.uint64),
        "phase": np.empty(0, np.uint8),
        "numerator": np.empty(0, np.int64),
        "denominator": np.empty(0, np.int64),
    }
    if supervoxel is None:
        return index, np.zeros(fragments.n, np.bool_), merges
    sizes, begin, end, _, _ = measure_nodes(index, fragments.n)
    leaving = touches_open_side(begin, end, (0, 0, 0), box.shape, open_sides(box, roi))
    least = max(lowest(segment["low"]), lowest(supervoxel["affinity"]))
    upper, lower, face, ends = sort_faces(index, affinities, least)
    sizes, frozen = np.concatenate(([0], sizes)), np.concatenate(([False], leaving))
    parent, face, affinity = link_faces(upper, lower, face, ends, sizes, frozen, supervoxel["size"])
    roots = np.unique(parent)
    take(index, np.searchsorted(roots, parent).astype(np.int32), index)
    merges["face"] = global_faces(face.astype(np.int64), box.shape, box.offset)
    merges["phase"] = np.ones(len(face), np.uint8)
    merges["numerator"] = affinity.astype(np.int64)
    merges["denominator"] = np.ones(len(face), np.int64)
    return index, ~frozen[roots[1:]], merges


def _planes(
    index: Array, ids: Array, affinities: Array, fragments: Fragments
) -> dict[str, Columns]:
    planes = {}
    names = np.concatenate((np.zeros(1, np.uint64), ids))
    for d in range(3):
        first, last = np.take(index, 0, axis=d), np.take(index, -1, axis=d)
        # The affinities' array is one voxel longer on each upper side.
        entering = np.take(affinities[d], 0, axis=d)[:-1, :-1]
        planes[f"lower-{d}"] = {
            "id": names[first.ravel()],
            "picked": fragments.picked_lower[d, : first.size],
            "affinity": entering.ravel(),
        }
        planes[f"upper-{d}"] = {
            "id": names[last.ravel()],
            "picked": fragments.picked_upper[d, : last.size],
        }
    return planes


def segment_process(params: Params, block: Block) -> Counters:
    """Segment one block and write all that it knows."""
    output, box = params["output"], block.box
    affinities = read_affinities(params, box.grow((0, 0, 0), (1, 1, 1)))
    graph = segment_block(affinities, box, roi_of(params), params["segment"])
    ids = np.empty(box.shape, np.uint64)
    take(graph.index, np.concatenate((np.zeros(1, np.uint64), graph.nodes.id)), ids)
    open_array(f"{output}/fragments/s0").write(box, ids)
    tables = {
        "nodes": to_columns(graph.nodes),
        "edges": to_columns(graph.edges),
        "merges": tree_rows(graph.merges),
        **graph.planes,
    }
    written = sum(
        write_table(output, f"segment/{block.name}/{name}", columns)
        for name, columns in tables.items()
    )
    return {"bytes_read": affinities.nbytes, "bytes_written": ids.nbytes + written}


def segment_prepare(params: Params) -> None:
    """Create the array of fragments."""
    create_array(
        f"{params['output']}/fragments/s0", dtype=np.uint64, kind="labels", **params["array"]
    )


def segment_step(job: Job, after: tuple[str, ...]) -> Step:
    """The step over the blocks of a job."""
    segment = job.config.segment.model_dump(mode="json")
    voxels = int(np.prod(job.config.block))
    affinities = affinity_params(job)
    return Step(
        name="segment",
        process=segment_process,
        params={
            **frame(job),
            "affinities": affinities,
            "segment": {key: segment[key] for key in ("low", "high", "supervoxel")}
            | {"linkage": kind_of(segment["linkage"])},
        },
        grid=job.grid,
        after=after,
        lower=reach_below(affinities),
        upper=(1, 1, 1),
        prepare=segment_prepare,
        # Affinities 3, index and parents 4, ids 8, and sorted faces 12 for each of up to two a
        # voxel; benchmarks/segment.py saw workers at 125 bytes a voxel, edges included.
        peak_bytes=110 * voxels + bytes_of_edges(voxels, segment),
        bytes_read=3 * job.roi.n_voxels,
        # Ids, and tables: measured on FIB-25, like those of the steps that follow.
        bytes_written=(8 + 3) * job.roi.n_voxels,
        paths=FRAME,
        outputs=("fragments/s0/", "tables/segment/"),
    )
