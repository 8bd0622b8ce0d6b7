"""Fragments of one block: the first Boruvka round of the maximum spanning tree.

Every voxel picks its largest edge in the order (affinity, face), the larger
first, where a face is ordered by its upper voxel and then its axis. Faces are
unique, so there are no ties, and a plateau becomes one fragment. Inside a
block the order of linear voxel indices is that of packed coordinates, so the
kernel never needs a global one.

The block's affinities come with one more voxel on the upper sides, where the
edges to the upper neighbours lie; edges that may not exist (outside the region
of interest or the mask) are 0 there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.kernels.jit import kernel
from tasks.kernels.unionfind import unite


class Fragments(NamedTuple):
    """Fragments inside one block.

    Attributes
    ----------
    volume : ndarray of int32, (z, y, x)
        0 for background, else 1…n in the order of the first voxel.
    n : int
        Number of fragments.
    picked_lower, picked_upper : ndarray of bool, (3, m)
        For each axis the voxels of the block's first and last layer whose pick
        leaves the block there, flattened; rows are padded to the largest face.
    """

    volume: npt.NDArray[np.int32]
    n: int
    picked_lower: npt.NDArray[np.bool_]
    picked_upper: npt.NDArray[np.bool_]


@kernel
def grow_fragments(affinities: npt.NDArray[np.uint8], low: int, high: int) -> Any:
    """Fragments of a block.

    Parameters
    ----------
    affinities : ndarray of uint8, (3, z + 1, y + 1, x + 1)
        Of the block and one voxel beyond its upper sides.
    low, high : int
        Smallest affinity of an edge; smallest affinity that joins at once
        (256: never).

    Returns
    -------
    tuple
        The fields of `Fragments`.
    """
    nz, ny, nx = affinities.shape[1] - 1, affinities.shape[2] - 1, affinities.shape[3] - 1
    step_z, step_y = ny * nx, nx
    widest = max(ny * nx, nz * nx, nz * ny)
    picked_lower = np.zeros((3, widest), np.bool_)
    picked_upper = np.zeros((3, widest), np.bool_)
    parent = np.arange(nz * ny * nx).astype(np.int32)
    i = 0
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                # Descending order of faces among equals; only a larger affinity replaces.
                best, pick = low - 1, -1
                if affinities[0, z + 1, y, x] > best:
                    best, pick = affinities[0, z + 1, y, x], 3
                if affinities[1, z, y + 1, x] > best:
                    best, pick = affinities[1, z, y + 1, x], 4
                if affinities[2, z, y, x + 1] > best:
                    best, pick = affinities[2, z, y, x + 1], 5
                if affinities[2, z, y, x] > best:
                    best, pick = affinities[2, z, y, x], 2
                if affinities[1, z, y, x] > best:
                    best, pick = affinities[1, z, y, x], 1
                if affinities[0, z, y, x] > best:
                    best, pick = affinities[0, z, y, x], 0
                if pick == -1:
                    parent[i] = -1
                elif pick == 0:
                    if z > 0:
                        unite(parent, i, i - step_z)
                    else:
                        picked_lower[0, y * nx + x] = True
                elif pick == 1:
                    if y > 0:
                        unite(parent, i, i - step_y)
                    else:
                        picked_lower[1, z * nx + x] = True
                elif pick == 2:
                    if x > 0:
                        unite(parent, i, i - 1)
                    else:
                        picked_lower[2, z * ny + y] = True
                elif pick == 3:
                    if z + 1 < nz:
                        unite(parent, i, i + step_z)
                    else:
                        picked_upper[0, y * nx + x] = True
                elif pick == 4:
                    if y + 1 < ny:
                        unite(parent, i, i + step_y)
                    else:
                        picked_upper[1, z * nx + x] = True
                elif x + 1 < nx:
                    unite(parent, i, i + 1)
                else:
                    picked_upper[2, z * ny + y] = True
                if best >= high:
                    if z > 0 and affinities[0, z, y, x] >= high:
                        unite(parent, i, i - step_z)
                    if y > 0 and affinities[1, z, y, x] >= high:
                        unite(parent, i, i - step_y)
                    if x > 0 and affinities[2, z, y, x] >= high:
                        unite(parent, i, i - 1)
                i += 1
    n = _number(parent)
    return parent.reshape(nz, ny, nx), n, picked_lower, picked_upper


@kernel
def _number(parent: npt.NDArray[np.int32]) -> int:
    """Replace parents by 1…n in the order of the roots, background (-1) by 0."""
    n = 0
    for i in range(len(parent)):
        root = parent[i]
        if root == -1:
            parent[i] = 0
        elif root == i:
            n += 1
            parent[i] = n
        else:
            parent[i] = parent[root]
    return n
