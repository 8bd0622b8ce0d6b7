"""Pairs of voxels that hang on each edge of a crop, for the constrained MALIS loss.

The *maximin edge* of two voxels is the weakest edge of the strongest path
between them: the edge that joins them when edges are added in descending
order, which Kruskal's algorithm does. Turaga et al. 2009, "Maximin affinity
learning of image segmentation"; in the constrained form of Funke et al. 2018,
"Large scale image segmentation with structured loss based deep learning for
connectome reconstruction", there are two passes: in the positive one edges
between objects are set to 0, in the negative one those inside objects to 1.

Objects are the components of the crop's voxels that true edges join, so that
an object that the crop cuts into parts is several. Then both passes are one
run of Kruskal's algorithm, first over the edges inside, then over those
between: while it is inside, clusters are parts of one object, so that an edge
joins size × size pairs of that object; and when it begins with the edges
between, each object is one cluster, so that all pairs that it joins are of
different objects. No counts per label are needed.

The order is total: inside before between, then larger affinities, then smaller
index of the edge, counted over (c, z, y, x).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Triple
from tasks.kernels.jit import kernel
from tasks.kernels.unionfind import find

LEVELS = 1 << 16
"""Affinities are compared at this resolution."""


def maximin_pairs(
    affinities: npt.NDArray[np.float32],
    joined: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many pairs of voxels each edge is the maximin edge of.

    Parameters
    ----------
    affinities : ndarray of float32
        (3, z, y, x) in 0…1; channel c joins a voxel with the one before it on axis c.
    joined : ndarray of bool
        Whether the edge is inside an object; of the same shape.
    known : ndarray of bool
        Edges that exist; of the same shape.

    Returns
    -------
    positive, negative : ndarray of int64
        Of the same shape: pairs inside an object, and pairs of different
        objects. Voxels that no true edge joins to any other are part of paths,
        but of no pair.
    """
    exists = known.copy()
    for axis in range(3):
        # The voxel before the first one is not part of the crop.
        exists[(axis, *(slice(0, 1) if i == axis else slice(None) for i in range(3)))] = False
    # A network that diverged says NaN, which is no bucket; its loss is still no number.
    descending = ((1 - np.nan_to_num(affinities)) * (LEVELS - 1) + 0.5).astype(np.int32)
    edges, inside = _ordered(descending.ravel(), joined.ravel(), exists.ravel(), LEVELS)
    _, size_y, size_x = affinities.shape[1:]
    steps: Triple = (size_y * size_x, size_x, 1)
    positive, negative = _count(edges, inside, steps, affinities[0].size)
    return positive.reshape(joined.shape), negative.reshape(joined.shape)


@kernel
def _ordered(
    rank: npt.NDArray[np.int32],
    joined: npt.NDArray[np.bool_],
    exists: npt.NDArray[np.bool_],
    levels: int,
) -> tuple[npt.NDArray[np.int32], int]:
    """Indices of the edges in order, by a counting sort, and how many are inside."""
    begin = np.zeros(2 * levels + 1, np.int64)
    for i in range(len(rank)):
        if exists[i]:
            begin[rank[i] + (0 if joined[i] else levels) + 1] += 1
    for i in range(2 * levels):
        begin[i + 1] += begin[i]
    inside = begin[levels]
    order = np.empty(begin[2 * levels], np.int32)
    for i in range(len(rank)):
        if exists[i]:
            bucket = rank[i] + (0 if joined[i] else levels)
            order[begin[bucket]] = i
            begin[bucket] += 1
    return order, inside


@kernel
def _count(
    edges: npt.NDArray[np.int32], inside: int, steps: Triple, n: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Kruskal's algorithm over edges, of which the first `inside` are inside objects."""
    positive, negative = np.zeros(3 * n, np.int64), np.zeros(3 * n, np.int64)
    parent, size = np.arange(n).astype(np.int32), np.ones(n, np.int64)
    for i in range(len(edges)):
        if i == inside:
            for voxel in range(n):
                if size[voxel] == 1:
                    size[voxel] = 0
        edge = edges[i]
        channel, voxel = edge // n, edge % n
        a, b = find(parent, voxel), find(parent, voxel - steps[channel])
        if a == b:
            continue
        if size[a] < size[b]:
            a, b = b, a
        if i < inside:
            positive[edge] = size[a] * size[b]
        else:
            negative[edge] = size[a] * size[b]
        parent[b] = a
        size[a] += size[b]
    return positive, negative
