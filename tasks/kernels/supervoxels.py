"""Phase 1 inside a block: Kruskal over the faces between fragments.

Size-dependent single linkage (Zlateski & Seung 2015), with freezing: what may
still change beyond the block's sides is not decided here. Faces are sorted by
counting (256 affinities, then descending faces), so no region graph of
fragments, whose hashing would cost more than all the rest, is ever built.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.kernels.jit import kernel
from tasks.kernels.unionfind import find

Int32s = npt.NDArray[np.int32]


@kernel
def sort_faces(index: Int32s, affinities: npt.NDArray[np.uint8], least: int) -> Any:
    """The faces between different fragments in descending order.

    Parameters
    ----------
    index : ndarray of int32, (z, y, x)
        Fragments, 0 for background.
    affinities : ndarray of uint8, (3, z + 1, y + 1, x + 1)
        As given to `grow_fragments`.
    least : int
        Smallest affinity of a face that counts.

    Returns
    -------
    upper, lower : ndarray of int32
        Fragments at the two sides of each face.
    face : ndarray of int32
        ``4 * linear index of the upper voxel + axis``.
    ends : ndarray of int64, (256,)
        Faces of affinity ``a`` are those before ``ends[a]`` and not before ``ends[a + 1]``.
    """
    nz, ny, nx = index.shape
    counts = np.zeros(257, np.int64)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                here = index[z, y, x]
                if z > 0 and here != index[z - 1, y, x]:
                    counts[affinities[0, z, y, x]] += 1
                if y > 0 and here != index[z, y - 1, x]:
                    counts[affinities[1, z, y, x]] += 1
                if x > 0 and here != index[z, y, x - 1]:
                    counts[affinities[2, z, y, x]] += 1
    ends = np.zeros(257, np.int64)
    total = 0
    for a in range(255, -1, -1):
        ends[a] = total  # grows to the end of the bucket while it is filled
        if a >= least:
            total += counts[a]
    upper = np.empty(total, np.int32)
    lower = np.empty(total, np.int32)
    face = np.empty(total, np.int32)
    for z in range(nz - 1, -1, -1):
        for y in range(ny - 1, -1, -1):
            for x in range(nx - 1, -1, -1):
                here = index[z, y, x]
                code = 4 * ((z * ny + y) * nx + x)
                for d in (2, 1, 0):
                    if d == 2:
                        if x == 0:
                            continue
                        there = index[z, y, x - 1]
                    elif d == 1:
                        if y == 0:
                            continue
                        there = index[z, y - 1, x]
                    else:
                        if z == 0:
                            continue
                        there = index[z - 1, y, x]
                    a = affinities[d, z, y, x]
                    if a >= least and here != there:
                        k = ends[a]
                        upper[k], lower[k], face[k] = here, there, code + d
                        ends[a] = k + 1
    return upper, lower, face, ends[:256]


@kernel
def link_faces(
    upper: Int32s,
    lower: Int32s,
    face: Int32s,
    ends: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    frozen: npt.NDArray[np.bool_],
    limit: int,
) -> Any:
    """Merge fragments along `sort_faces` until both sides have `limit` voxels.

    Parameters
    ----------
    upper, lower, face, ends
        From `sort_faces`.
    sizes : ndarray of int64, (n + 1,)
        Voxels of each fragment; becomes those of the root. Lower bounds where
        a fragment leaves the block.
    frozen : ndarray of bool, (n + 1,)
        In: the fragments that leave the block. Out, at the roots: all that
        cannot be decided here.
    limit : int
        Two sets that both have at least this many voxels never merge.

    Returns
    -------
    parent : ndarray of int32, (n + 1,)
        Root of each fragment: the smallest fragment of its set.
    merged_face, merged_affinity : ndarray
        One entry for each merge, in order.
    """
    parent = np.arange(len(sizes)).astype(np.int32)
    merged_face = np.empty(len(sizes), np.int32)
    merged_affinity = np.empty(len(sizes), np.uint8)
    n_merged = 0
    begin = 0
    for a in range(255, -1, -1):
        for k in range(begin, ends[a]):
            i = find(parent, upper[k])
            j = find(parent, lower[k])
            if i == j:
                continue
            i_big, j_big = sizes[i] >= limit, sizes[j] >= limit
            if i_big and j_big:
                continue
            i_free, j_free = not frozen[i], not frozen[j]
            if (i_free and j_free) or (i_big and j_free) or (j_big and i_free):
                if i > j:
                    i, j = j, i
                parent[j] = i
                sizes[i] += sizes[j]
                frozen[i] |= frozen[j]
                merged_face[n_merged] = face[k]
                merged_affinity[n_merged] = a
                n_merged += 1
            else:
                frozen[i] = frozen[j] = True
        begin = max(begin, ends[a])
    for i in range(len(parent)):
        parent[i] = parent[parent[i]]
    return parent, merged_face[:n_merged].copy(), merged_affinity[:n_merged].copy()
