"""A region graph whose nodes are merged in place.

Half-edges lie in linked lists, one list a node, and a hash table leads from
pairs of nodes to edges. The list of the node that goes moves into that of the
node that stays. Entries of nodes that are gone remain in the table until it is
rebuilt; they are never asked for again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.kernels.hashing import EMPTY, pair_key, slot
from tasks.kernels.jit import inlined, kernel

NO_FACE = np.uint64(0)
"""The `tie` of an edge without faces that count in phase 2; no edge ends at face 0."""


class Graph(NamedTuple):
    """A region graph while it is merged. One entry a node, or one an edge.

    Attributes
    ----------
    id : ndarray of uint64
        1 + smallest packed coordinate.
    size, absorbed : ndarray of int64
        Voxels of the node itself, and of the specks that joined it in phase 3
        before it was through phase 2.
    lower, upper : ndarray of int32, (n, 3)
        Bounding box in voxels, the upper side excluded.
    total : ndarray of int64, (n, 3)
        Sums of z, y, x over all voxels, absorbed ones included.
    stage : ndarray of int8
        The phase that the node is in: 1, 2, 3; 4 when it is through.
    frozen : ndarray of bool
        Whether its part in this region is over.
    joined : ndarray of int32
        The node that it was merged into, or itself.
    u, v : ndarray of int32
        The two nodes of an edge.
    alive : ndarray of bool
    stats : ndarray, (m, k)
        (sum, count) of affinities, or their histogram.
    tie : ndarray of uint64
        Largest face that counts in phase 2. Of equal scores the one with the smaller tie
        goes first, so that a merged edge never overtakes its better part: with the smallest
        face it could, where the quantile stays the same.
    affinity1, affinity3 : ndarray of int16
        Affinity of the largest face, for phase 1 and for phase 3; -1 is none.
    face1, face3 : ndarray of uint64
        Those faces.
    head, tail, degree : ndarray of int32
        List of half-edges of each node; `degree` is an upper bound.
    after : ndarray of int32, (2 m,)
        Next half-edge; half-edges 2e and 2e + 1 lie in the lists of u and v.
    keys : ndarray of int64
    values : ndarray of int32
        Hash table from pairs of nodes to edges.
    used : ndarray of int64, (1,)
        Entries of the table.
    heir : ndarray of int32
        The edge that took over the faces of an edge that is not alive, or -1.
    touched : ndarray of int32
        Edges that grew in the last `merge_nodes`.
    """

    id: npt.NDArray[np.uint64]
    size: npt.NDArray[np.int64]
    absorbed: npt.NDArray[np.int64]
    lower: npt.NDArray[np.int32]
    upper: npt.NDArray[np.int32]
    total: npt.NDArray[np.int64]
    stage: npt.NDArray[np.int8]
    frozen: npt.NDArray[np.bool_]
    joined: npt.NDArray[np.int32]
    u: npt.NDArray[np.int32]
    v: npt.NDArray[np.int32]
    alive: npt.NDArray[np.bool_]
    stats: npt.NDArray[Any]
    tie: npt.NDArray[np.uint64]
    affinity1: npt.NDArray[np.int16]
    face1: npt.NDArray[np.uint64]
    affinity3: npt.NDArray[np.int16]
    face3: npt.NDArray[np.uint64]
    head: npt.NDArray[np.int32]
    tail: npt.NDArray[np.int32]
    degree: npt.NDArray[np.int32]
    after: npt.NDArray[np.int32]
    keys: npt.NDArray[np.int64]
    values: npt.NDArray[np.int32]
    used: npt.NDArray[np.int64]
    heir: npt.NDArray[np.int32]
    touched: npt.NDArray[np.int32]


@kernel
def _enter(g: Graph, a: int, b: int, edge: int) -> None:
    """Make `edge` what the table says for the nodes a and b."""
    if 2 * g.used[0] >= len(g.keys):
        g.keys[:] = EMPTY
        g.used[0] = 0
        for e in range(len(g.u)):
            if g.alive[e]:
                _put(g, pair_key(g.u[e], g.v[e]), e)
    _put(g, pair_key(a, b), edge)


@inlined
def _put(g: Graph, key: np.int64, edge: int) -> None:
    at = slot(g.keys, key)
    if g.keys[at] == EMPTY:
        g.keys[at] = key
        g.used[0] += 1
    g.values[at] = edge


@inlined
def _append(g: Graph, node: int, half: int) -> None:
    g.after[half] = -1
    if g.head[node] == -1:
        g.head[node] = half
    else:
        g.after[g.tail[node]] = half
    g.tail[node] = half
    g.degree[node] += 1


@kernel
def connect(g: Graph) -> None:
    """Fill the lists and the hash table from the edges. Edges must be unique."""
    for e in range(len(g.u)):
        _append(g, g.u[e], 2 * e)
        _append(g, g.v[e], 2 * e + 1)
        _enter(g, g.u[e], g.v[e], e)


@inlined
def _strip(g: Graph, e: int) -> None:
    """Leave of an edge only what phase 3 reads."""
    g.stats[e] = 0
    g.tie[e] = NO_FACE
    g.affinity1[e] = -1


@kernel
def _combine(g: Graph, e: int, f: int) -> None:
    """Add the faces of edge `f` to edge `e`."""
    for k in range(g.stats.shape[1]):
        g.stats[e, k] += g.stats[f, k]
    g.tie[e] = max(g.tie[e], g.tie[f])
    if g.affinity1[f] > g.affinity1[e] or (
        g.affinity1[f] == g.affinity1[e] and g.face1[f] > g.face1[e]
    ):
        g.affinity1[e], g.face1[e] = g.affinity1[f], g.face1[f]
    if g.affinity3[f] > g.affinity3[e] or (
        g.affinity3[f] == g.affinity3[e] and g.face3[f] > g.face3[e]
    ):
        g.affinity3[e], g.face3[e] = g.affinity3[f], g.face3[f]


@kernel
def merge_nodes(g: Graph, keep: int, gone: int, strip: bool) -> int:
    """Merge node `gone` into `keep`; with `strip` as a speck that counts only in phase 3.

    Returns
    -------
    int
        Number of edges that took over the faces of another; they are named in
        ``g.touched``.
    """
    if strip:
        g.absorbed[keep] += g.size[gone] + g.absorbed[gone]
    else:
        g.size[keep] += g.size[gone]
        g.absorbed[keep] += g.absorbed[gone]
        g.frozen[keep] |= g.frozen[gone]
    g.id[keep] = min(g.id[keep], g.id[gone])
    for d in range(3):
        g.lower[keep, d] = min(g.lower[keep, d], g.lower[gone, d])
        g.upper[keep, d] = max(g.upper[keep, d], g.upper[gone, d])
        g.total[keep, d] += g.total[gone, d]
    g.joined[gone] = keep
    n_touched = 0
    half = g.head[gone]
    while half != -1:
        following = g.after[half]
        e = half >> 1
        if g.alive[e]:
            other = g.v[e] if half & 1 == 0 else g.u[e]
            if other == keep:
                g.alive[e] = False
            else:
                if strip:
                    _strip(g, e)
                at = slot(g.keys, pair_key(keep, other))
                if g.keys[at] != EMPTY and g.alive[g.values[at]]:
                    f = g.values[at]
                    _combine(g, f, e)
                    g.alive[e] = False
                    g.heir[e] = f
                    g.touched[n_touched] = f
                    n_touched += 1
                else:
                    if half & 1 == 0:
                        g.u[e] = keep
                    else:
                        g.v[e] = keep
                    _enter(g, keep, other, e)
                    _append(g, keep, half)
        half = following
    g.head[gone] = -1
    return n_touched


@inlined
def living(g: Graph, e: int) -> int:
    """The edge that has the faces of `e` now; it may have been dropped."""
    while not g.alive[e] and g.heir[e] >= 0:
        if g.heir[g.heir[e]] >= 0:
            g.heir[e] = g.heir[g.heir[e]]
        e = g.heir[e]
    return e
