"""Nodes and edges of the region graph of one labelled block.

One pass for the nodes, one for the edges. The edges are hashed by their pair
of nodes; runs of voxels along x mostly see the same pair again, so the last
pair of each axis is remembered and the table is seldom asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.kernels.hashing import EMPTY, pair_key, slot
from tasks.kernels.jit import kernel

Int64s = npt.NDArray[np.int64]


@kernel
def measure_nodes(index: npt.NDArray[np.int32], n: int) -> Any:
    """Size, extent and coordinate sums of every node, in the block's own voxels.

    Parameters
    ----------
    index : ndarray of int32, (z, y, x)
        0 for background, else 1…n.
    n : int
        Number of nodes.

    Returns
    -------
    size : ndarray of int64, (n,)
    lower, upper : ndarray of int32, (n, 3)
        Bounding box, the upper side excluded.
    total : ndarray of int64, (n, 3)
        Sums of z, y and x over the voxels.
    first : ndarray of int64, (n,)
        Smallest linear index of a voxel.
    """
    nz, ny, nx = index.shape
    size = np.zeros(n, np.int64)
    lower = np.full((n, 3), 1 << 30, np.int32)
    upper = np.zeros((n, 3), np.int32)
    total = np.zeros((n, 3), np.int64)
    first = np.full(n, -1, np.int64)
    for z in range(nz):
        for y in range(ny):
            x = 0
            while x < nx:
                node = index[z, y, x] - 1
                begin = x
                while x < nx and index[z, y, x] - 1 == node:
                    x += 1
                if node < 0:
                    continue
                run = x - begin
                if first[node] < 0:
                    first[node] = (z * ny + y) * nx + begin
                    lower[node, 0] = z
                size[node] += run
                lower[node, 1] = min(lower[node, 1], y)
                lower[node, 2] = min(lower[node, 2], begin)
                upper[node, 0] = z + 1
                upper[node, 1] = max(upper[node, 1], y + 1)
                upper[node, 2] = max(upper[node, 2], x)
                total[node, 0] += run * z
                total[node, 1] += run * y
                total[node, 2] += run * (begin + x - 1) // 2
    return size, lower, upper, total, first


@kernel
def measure_edges(
    index: npt.NDArray[np.int32],
    affinities: npt.NDArray[np.uint8],
    low: int,
    no_stats: npt.NDArray[Any],
) -> Any:
    """Edges between nodes that share a face.

    Parameters
    ----------
    index : ndarray of int32, (z, y, x)
        0 for background, else 1…n.
    affinities : ndarray of uint8, (3, z + 1, y + 1, x + 1)
        As given to `grow_fragments`.
    low : int
        Smallest affinity of a face that counts.
    no_stats : ndarray of integers, (0, k)
        Type of the statistics: k = 2 for (sum, count), 256 for a histogram.

    Returns
    -------
    u, v : ndarray of int32, (m,)
        Nodes 0…n-1 with u < v.
    stats : ndarray, (m, k)
    tie, face : ndarray of int64, (m,)
        The largest face, and the largest by (affinity, face), each as
        ``4 * linear index of the upper voxel + axis``.
    affinity : ndarray of int16, (m,)
        Affinity of that largest face.
    """
    nz, ny, nx = index.shape
    n_stats = no_stats.shape[1]
    room = 1 << 11
    keys, values = np.full(2 * room, EMPTY, np.int64), np.empty(2 * room, np.int32)
    pair = np.empty(room, np.int64)
    stats = np.zeros((room, n_stats), no_stats.dtype)
    tie, face = np.empty(room, np.int64), np.empty(room, np.int64)
    affinity = np.full(room, -1, np.int16)
    row_key, row_code = np.empty(3 * nx, np.int64), np.empty(3 * nx, np.int64)
    row_affinity = np.empty(3 * nx, np.uint8)
    last_key, last_edge = np.full(3, EMPTY, np.int64), np.zeros(3, np.int64)
    m = 0
    for z in range(nz):
        for y in range(ny):
            n = _faces_of_row(index, affinities, low, z, y, row_key, row_code, row_affinity)
            if m + n > room:  # the table is kept at most half full
                room = max(2 * room, m + n)
                room = 1 << int(np.ceil(np.log2(room)))
                keys, values = np.full(2 * room, EMPTY, np.int64), np.empty(2 * room, np.int32)
                for e in range(m):
                    at = slot(keys, pair[e])
                    keys[at], values[at] = pair[e], e
                pair, tie, face = _grown(pair, room), _grown(tie, room), _grown(face, room)
                stats, affinity = _grown(stats, room), _grown(affinity, room)
                stats[m:], affinity[m:] = 0, -1
            for k in range(n):
                key, code, a = row_key[k], row_code[k], row_affinity[k]
                d = code & 3
                if key != last_key[d]:
                    at = slot(keys, key)
                    if keys[at] == EMPTY:
                        keys[at], values[at] = key, m
                        pair[m] = key
                        m += 1
                    last_key[d], last_edge[d] = key, values[at]
                e = last_edge[d]
                if n_stats == 2:
                    stats[e, 0] += a
                    stats[e, 1] += 1
                else:
                    stats[e, a] += 1
                tie[e] = code  # faces ascend, so the last one is the largest
                if a >= affinity[e]:
                    affinity[e], face[e] = a, code
    u = ((pair[:m] >> 32) - 1).astype(np.int32)
    v = ((pair[:m] & 0xFFFFFFFF) - 1).astype(np.int32)
    return u, v, stats[:m].copy(), tie[:m].copy(), face[:m].copy(), affinity[:m].copy()


@kernel
def _grown(column: npt.NDArray[Any], room: int) -> npt.NDArray[Any]:
    out = np.empty((room, *column.shape[1:]), column.dtype)
    out[: len(column)] = column
    return out


@kernel
def _faces_of_row(
    index: npt.NDArray[np.int32],
    affinities: npt.NDArray[np.uint8],
    low: int,
    z: int,
    y: int,
    key: Int64s,
    code: Int64s,
    affinity: npt.NDArray[np.uint8],
) -> int:
    """Faces below the voxels of one row that lie between two nodes, ascending; their number."""
    nx = index.shape[2]
    here_row = index[z, y]
    back_row = index[max(z - 1, 0), y]
    side_row = index[z, max(y - 1, 0)]
    first = 4 * (z * index.shape[1] + y) * nx
    n = 0
    for x in range(nx):
        here = here_row[x]
        if here == 0:
            continue
        if z > 0 and back_row[x] != here and affinities[0, z, y, x] >= low:
            key[n], code[n] = pair_key(here, back_row[x]), first + 4 * x
            affinity[n] = affinities[0, z, y, x]
            n += 1
        if y > 0 and side_row[x] != here and affinities[1, z, y, x] >= low:
            key[n], code[n] = pair_key(here, side_row[x]), first + 4 * x + 1
            affinity[n] = affinities[1, z, y, x]
            n += 1
        if x > 0 and here_row[x - 1] != here and affinities[2, z, y, x] >= low:
            key[n], code[n] = pair_key(here, here_row[x - 1]), first + 4 * x + 2
            affinity[n] = affinities[2, z, y, x]
            n += 1
    return n


@kernel
def take(index: npt.NDArray[np.int32], table: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Write ``table[index]`` into `out`, voxel by voxel."""
    flat, target = index.reshape(-1), out.reshape(-1)
    for i in range(len(flat)):
        target[i] = table[flat[i]]
