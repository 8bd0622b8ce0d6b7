"""Step `segments`: the table of segments, in slabs along z.

Ids are packed with z first, so slabs in order are ids in order: a slab's table
needs only the segments that begin in it, and the rank of an id (``relabel:
consecutive``) is its rank in its slab plus the counts of the slabs before.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TableError
from pipeline.geometry import Block, Grid, octree, triple
from pipeline.steps import Counters, Job, Params, Step
from pipeline.store import open_store
from pipeline.tables import Columns, read_table
from tasks.affinities import FRAME, frame
from tasks.coordinates import voxels_of
from tasks.merge import levels_of
from tasks.regiongraph import Array, Nodes, nodes_from, select, stack

FOLDER = "tables/segments"


def segments_process(params: Params, block: Block) -> Counters:
    """Write the segments that begin in one slab as ``tables/segments/<z>.parquet``."""
    output, box = params["output"], block.box
    parts = []
    for level, grid in enumerate(levels_of(params)):
        for node in grid.overlapping(box):
            final = nodes_from(read_table(output, f"merge/{level}/{node.name}/final"))
            z = voxels_of(final.id)[:, 0]
            large = final.size + final.absorbed >= params["min_size"]
            parts.append(select(final, large & (z >= box.offset[0]) & (z < box.end[0])))
    nodes = stack(parts, Nodes.empty())
    nodes = select(nodes, np.argsort(nodes.id))
    sink = io.BytesIO()
    pq.write_table(
        pa.table(describe(nodes, params)), sink, compression="zstd", write_page_checksum=True
    )
    # Six digits keep the names in order: z < 2^20 voxels.
    name = f"{FOLDER}/{block.index[0]:07d}.parquet"
    open_store(output).write(name, sink.getvalue())
    return {"bytes_written": sink.tell(), "segments": len(nodes)}


def describe(nodes: Nodes, params: Params) -> Columns:
    """Columns of the segment table.

    ``id``; ``n_voxels``; the bounding box ``z0 y0 x0 z1 y1 x1`` in voxels, the
    upper side excluded; the centroid ``centroid_z centroid_y centroid_x`` in nm,
    from the exact sums; and ``point_z point_y point_x``, a voxel inside.
    """
    n_voxels = nodes.size + nodes.absorbed
    mean = nodes.total / n_voxels[:, None]
    frame_of = params["array"]
    centroid = np.array(frame_of["translation"]) + mean * np.array(frame_of["voxel_size"])
    point = voxels_of(nodes.id).astype(np.int32)
    columns: Columns = {"id": nodes.id, "n_voxels": n_voxels}
    for suffix, corner in (("0", nodes.lower), ("1", nodes.upper)):
        columns |= {f"{axis}{suffix}": corner[:, d] for d, axis in enumerate("zyx")}
    columns |= {f"centroid_{axis}": centroid[:, d] for d, axis in enumerate("zyx")}
    columns |= {f"point_{axis}": point[:, d] for d, axis in enumerate("zyx")}
    return columns


def _parts(output: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    store = open_store(output)
    for name in store.list(f"{FOLDER}/"):
        part = store.read(name)
        if part is None:
            continue
        source = pa.BufferReader(part)
        try:
            table = pq.read_table(source, columns=columns, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise TableError(
                f"segment table {name!r} under {output!r} is damaged ({error}). Delete it; the "
                "next run makes it again."
            ) from error
        yield table


def read_segment_table(output: str) -> Columns:
    """The whole segment table, by ascending id, for those whose memory holds it.

    Raises
    ------
    TableError
        If a part of it is damaged.
    """
    table = pa.concat_tables(_parts(output))
    return {name: table.column(name).to_numpy() for name in table.column_names}


def read_segment_ids(output: str) -> Iterator[Array]:
    """Ids of all segments, ascending, one array for every slab."""
    for table in _parts(output, ["id"]):
        yield table.column("id").to_numpy()


def count_segments(output: str) -> int:
    """Number of segments of a finished run."""
    return sum(map(len, read_segment_ids(output)))


def consecutive(output: str, labels: Array) -> Array:
    """Ranks 1…n of packed labels among all segments; 0 stays 0."""
    ranks = np.zeros_like(labels)
    before = 0
    for ids in read_segment_ids(output):
        if len(ids):
            inside = (labels >= ids[0]) & (labels <= ids[-1])
            ranks[inside] = np.searchsorted(ids, labels[inside]) + 1 + before
        before += len(ids)
    return ranks


def segments_step(job: Job) -> Step:
    """The step over slabs as thick as a block."""
    slab = triple((job.config.block[0], job.roi.end[1], job.roi.end[2]))
    root = len(octree(job.grid)) - 1
    return Step(
        name="segments",
        process=segments_process,
        params={**frame(job), "min_size": job.config.segment.min_size},
        grid=Grid(job.roi, slab),
        after=(f"merge-{root}",),
        peak_bytes=200 << 20,
        paths=FRAME,
        outputs=(f"{FOLDER}/",),
    )
