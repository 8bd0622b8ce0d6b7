"""The classic way: waterz in each block, neighbours joined where they overlap.

Every block is segmented with `context` voxels around it, by waterz' watershed
and agglomeration (Funke et al. 2019). Two neighbours have then both segmented a
slab around their common face; segments of which most is common there are one, and the
union of all such pairs is taken over the whole volume.

What it is not: independent of the blocks. A block that knew more would have
agglomerated differently, and one wrong overlap joins two objects everywhere.
It is here for comparison and for those who come with waterz' parameters.
Limits: the ids of all blocks must fit
in one worker's memory at the union (about 40 bytes an id), and be under 2^31.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.arrays import open_array
from pipeline.geometry import Block, Box, Grid, Triple, triple
from pipeline.steps import Counters, Job, Params, Step
from pipeline.tables import read_table, write_table
from tasks.affinities import affinity_params, frame, reach_below, read_affinities, roi_of
from tasks.coordinates import pack, voxels_at
from tasks.evaluate.contingency import Contingency, contingency, group_sums, merge
from tasks.relabel import relabel_step
from tasks.segment import segment_prepare
from tasks.waterz_agglomeration import agglomerate, scoring_function

Ids = npt.NDArray[np.uint64]


def steps(job: Job, upstream: list[Step]) -> list[Step]:
    """The steps of ``decoder: waterz``, from affinities to labels."""
    scoring_function(job.config.waterz.scoring)
    # Unlike the exact decoder's, a block's segments depend on where its neighbours
    # and the region end, so only the output's place is left out of fingerprints.
    shared = {**frame(job), "context": job.config.waterz.context}
    return [
        _segment_step(job, shared, after=tuple(step.name for step in upstream)),
        _stitch_step(job, shared),
        _union_step(job, shared),
        relabel_step(job, after=("waterz-union",)),
    ]


def _segment_step(job: Job, shared: Params, after: tuple[str, ...]) -> Step:
    context = job.config.waterz.context
    halo: Triple = (context, context, context)
    affinities = affinity_params(job)
    below = triple(a + b for a, b in zip(halo, reach_below(affinities), strict=True))
    options = job.config.waterz.model_dump(mode="json", exclude={"context", "overlap"})
    return Step(
        name="waterz-segment",
        process=segment_process,
        params={**shared, "affinities": affinities, "waterz": options},
        grid=job.grid,
        after=after,
        lower=below,
        upper=halo,
        prepare=segment_prepare,
        # Affinities as uint8 and float32 15, segments and ids 16, waterz' fragments and graph.
        peak_bytes=64 * Box((0, 0, 0), job.config.block).grow(halo, halo).n_voxels,
        bytes_read=3 * job.roi.n_voxels,
        bytes_written=8 * job.roi.n_voxels,
        paths=("output",),
        outputs=("fragments/s0/", "tables/waterz-segment/"),
    )


def _stitch_step(job: Job, shared: Params) -> Step:
    z, y, x = job.config.block
    return Step(
        name="waterz-stitch",
        process=stitch_process,
        params={**shared, "overlap": job.config.waterz.overlap},
        grid=job.grid,
        after=("waterz-segment",),
        upper=(1, 1, 1),
        # Two views of the slab around a face, and both again to sort them.
        peak_bytes=64 * 2 * job.config.waterz.context * max(z * y, z * x, y * x),
        paths=("output",),
        outputs=("tables/waterz-stitch/",),
    )


def _union_step(job: Job, shared: Params) -> Step:
    return Step(
        name="waterz-union",
        process=union_process,
        params={**shared, "relabel": job.config.relabel},
        grid=Grid(job.roi, job.shape),
        after=("waterz-stitch",),
        # 40 bytes for each id; a segment of a block has some thousand voxels.
        peak_bytes=40 * job.roi.n_voxels // 1000,
        paths=("output",),
        outputs=("tables/labels/",),
    )


def segment_process(params: Params, block: Block) -> Counters:
    """Segment a block with its context; write its voxels, and how it sees its neighbours'."""
    output, box = params["output"], _seen(params, block)
    affinities = read_affinities(params, box)
    segments = agglomerate(affinities, params["waterz"])
    core = block.box.relative_to(box.offset)
    local, first = np.unique(segments[core.slices], return_index=True)
    local, first = local[local > 0], first[local > 0]
    # A segment is named by a voxel of the block. What lies in the context only has no name.
    names = np.zeros(int(segments.max()) + 1, np.uint64)
    names[local] = pack(voxels_at(first, block.box.shape, block.box.offset)) + np.uint64(1)
    ids = names[segments]
    open_array(f"{output}/fragments/s0").write(block.box, ids[core.slices])
    for axis, side in np.ndindex(3, 2):
        neighbour = _neighbour(params, block, axis, 2 * side - 1)
        if neighbour is not None:
            slab = box.intersect(neighbour.box).relative_to(box.offset)
            view = {"id": ids[slab.slices].ravel()}
            write_table(output, f"waterz-segment/{block.name}/view-{axis}-{side}", view)
    write_table(output, f"waterz-segment/{block.name}/ids", {"id": np.sort(names[local])})
    return {"bytes_read": affinities.nbytes, "bytes_written": ids[core.slices].nbytes}


def stitch_process(params: Params, block: Block) -> None:
    """Find the segments that a block shares with its upper neighbours."""
    output, fragments = params["output"], open_array(f"{params['output']}/fragments/s0")
    joins = [np.empty((2, 0), np.uint64)]
    for axis in range(3):
        above = _neighbour(params, block, axis, 1)
        if above is not None:
            theirs = fragments.read(_seen(params, block).intersect(above.box)).ravel()
            ours = fragments.read(_seen(params, above).intersect(block.box)).ravel()
            our_view = read_table(output, f"waterz-segment/{block.name}/view-{axis}-1")["id"]
            their_view = read_table(output, f"waterz-segment/{above.name}/view-{axis}-0")["id"]
            slab = merge([_all_pairs(our_view, theirs), _all_pairs(ours, their_view)])
            joins.append(majority(slab, params["overlap"]))
    lower, upper = np.concatenate(joins, axis=1)
    write_table(output, f"waterz-stitch/{block.name}", {"lower": lower, "upper": upper})


def majority(slab: Contingency, share: float) -> Ids:
    """Pairs of segments, shape (2, n), that each have `share` of their voxels in common.

    It must hold for both: were the smaller one enough, every speck that one block
    sees inside a segment of the other would join what lies on either side of it.

    Parameters
    ----------
    slab : Contingency
        Voxels around a face by the segment of either block; 0 is none.
    share : float
        Of the voxels that a segment has in the slab.
    """
    rows, row_sizes = group_sums(slab.truth, slab.count)
    columns, column_sizes = group_sums(slab.label, slab.count)
    larger = np.maximum(
        row_sizes[np.searchsorted(rows, slab.truth)],
        column_sizes[np.searchsorted(columns, slab.label)],
    )
    joined = (slab.truth > 0) & (slab.label > 0) & (slab.count >= share * larger)
    return np.stack([slab.truth[joined], slab.label[joined]])


def union_process(params: Params, block: Block) -> None:  # noqa: ARG001 (the one block is all)
    """Join all pairs of the volume and give every block its table of labels."""
    output = params["output"]
    names = [part.name for part in _grid(params)]
    parts = [read_table(output, f"waterz-segment/{name}/ids")["id"] for name in names]
    joins = [read_table(output, f"waterz-stitch/{name}") for name in names]
    ids = np.sort(np.concatenate(parts))
    lower = np.searchsorted(ids, np.concatenate([join["lower"] for join in joins]))
    upper = np.searchsorted(ids, np.concatenate([join["upper"] for join in joins]))
    graph = coo_array((np.ones(lower.size, np.bool_), (lower, upper)), (ids.size, ids.size))
    _, component = connected_components(graph, directed=False)
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    labels = ids[first][inverse]  # the smallest id of each component, as `ids` is sorted
    if params["relabel"] == "consecutive":
        labels = np.unique(labels, return_inverse=True)[1].astype(np.uint64) + np.uint64(1)
    for name, part in zip(names, parts, strict=True):
        table = {"id": part, "label": labels[np.searchsorted(ids, part)]}
        write_table(output, f"labels/{name}", table)


def _all_pairs(lower: Ids, upper: Ids) -> Contingency:
    return contingency(lower, upper, np.ones(lower.shape, np.bool_))


def _grid(params: Params) -> Grid:
    return Grid(roi_of(params), triple(params["array"]["block"]))


def _seen(params: Params, block: Block) -> Box:
    """The voxels that a block segments."""
    halo = triple([params["context"]] * 3)
    return block.box.grow(halo, halo).intersect(roi_of(params))


def _neighbour(params: Params, block: Block, axis: int, step: int) -> Block | None:
    grid, index = _grid(params), list(block.index)
    index[axis] += step
    return grid.at(triple(index)) if triple(index) in grid else None
