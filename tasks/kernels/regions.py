"""Nodes and edges of the region graph of one labelled block.

One pass for the nodes, one for the edges. The edges are hashed by their pair
of nodes; runs of voxels along x mostly see the same pair again, so the last
pair of each axis is remembered and the table is seldom asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.kernels.jit import inlined, kernel

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


@inlined
def _slot(keys: Int64s, key: int) -> int:
    """Where `key` lies in an open-addressing table, or the empty slot (-1) for it."""
    mask = len(keys) - 1
    # Fibonacci hashing in 64 bits spreads pairs of consecutive nodes.
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    at = np.int64(h >> np.uint64(20)) & mask
    while keys[at] != -1 and keys[at] != key:
        at = (at + 1) & mask
    return at


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
        Smallest face, and the largest by (affinity, face), each as
        ``4 * linear index of the upper voxel + axis``.
    affinity : ndarray of int16, (m,)
        Affinity of that largest face.
    """
    nz, ny, nx = index.shape
    keys = np.full(1 << 12, -1, np.int64)
    values = np.empty(1 << 12, np.int32)
    room = 1 << 11
    pair = np.empty(room, np.int64)
    n_stats = no_stats.shape[1]
    stats = np.zeros((room, n_stats), no_stats.dtype)
    tie = np.empty(room, np.int64)
    face = np.empty(room, np.int64)
    affinity = np.full(room, -1, np.int16)
    m = 0
    last_key = np.full(3, -1, np.int64)
    last_edge = np.zeros(3, np.int64)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                here = index[z, y, x]
                if here == 0:
                    continue
                code = 4 * ((z * ny + y) * nx + x)
                for d in range(3):
                    if d == 0:
                        there = index[z - 1, y, x] if z > 0 else here
                    elif d == 1:
                        there = index[z, y - 1, x] if y > 0 else here
                    else:
                        there = index[z, y, x - 1] if x > 0 else here
                    if here == there:
                        continue
                    a = affinities[d, z, y, x]
                    if a < low:
                        continue
                    key = (np.int64(min(here, there)) << 32) | np.int64(max(here, there))
                    if key == last_key[d]:
                        e = last_edge[d]
                    else:
                        at = _slot(keys, key)
                        if keys[at] == -1:
                            if m == room:
                                # The table is kept at most half full.
                                room *= 2
                                keys = np.full(2 * room, -1, np.int64)
                                values = np.empty(2 * room, np.int32)
                                for k in range(m):
                                    s = _slot(keys, pair[k])
                                    keys[s], values[s] = pair[k], k
                                pair = np.concatenate((pair, pair))
                                stats = np.concatenate((stats, np.zeros_like(stats)))
                                tie = np.concatenate((tie, tie))
                                face = np.concatenate((face, face))
                                affinity = np.concatenate((affinity, np.full_like(affinity, -1)))
                                at = _slot(keys, key)
                            keys[at], values[at] = key, m
                            pair[m] = key
                            tie[m] = code + d
                            m += 1
                        e = np.int64(values[at])
                        last_key[d], last_edge[d] = key, e
                    if n_stats == 2:
                        stats[e, 0] += a
                        stats[e, 1] += 1
                    else:
                        stats[e, a] += 1
                    if a >= affinity[e]:  # faces ascend, so an equal one is larger
                        affinity[e], face[e] = a, code + d
    u = ((pair[:m] >> 32) - 1).astype(np.int32)
    v = ((pair[:m] & 0xFFFFFFFF) - 1).astype(np.int32)
    return u, v, stats[:m].copy(), tie[:m].copy(), face[:m].copy(), affinity[:m].copy()


@kernel
def take(index: npt.NDArray[np.int32], table: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Write ``table[index]`` into `out`, voxel by voxel."""
    flat, target = index.reshape(-1), out.reshape(-1)
    for i in range(len(flat)):
        target[i] = table[flat[i]]
