"""One phase of agglomeration on a region graph, with freezing.

Edges leave a heap in descending order of their score. What is incomplete, or
hangs on something incomplete, is frozen: its merge is left to a larger region.
Because every linkage here is reducible and every order total, what is merged
is what the greedy order over the whole volume would merge (design, section
3.3; Bailoni et al. 2022 name the linkages, Zlateski & Seung 2015 the rule of
sizes).

The graph is kept as half-edges in linked lists, one list a node, and a hash
table from pairs of nodes to edges. The smaller list moves into the larger one.
Entries of nodes that are gone stay in the table until it is rebuilt; they are
never asked for again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.kernels.heap import Priorities, heapify, pop, push_or_move, remove
from tasks.kernels.jit import inlined, kernel

NO_FACE = np.uint64(0xFFFFFFFFFFFFFFFF)
"""The `tie` of an edge without faces that count in phase 2."""


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
        Smallest face.
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


class Merges(NamedTuple):
    """Merges in the order in which they happened; `n` counts them.

    A merge is told by the face that decided it, because the two voxels of a
    face lie inside the two merged sets whatever they were called at the time.
    """

    face: npt.NDArray[np.uint64]
    phase: npt.NDArray[np.uint8]
    numerator: npt.NDArray[np.int64]
    denominator: npt.NDArray[np.int64]
    n: npt.NDArray[np.int64]


@inlined
def _slot(keys: npt.NDArray[np.int64], a: int, b: int) -> int:
    key = (np.int64(min(a, b)) << 32) | np.int64(max(a, b))
    mask = len(keys) - 1
    at = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask
    while keys[at] != -1 and keys[at] != key:
        at = (at + 1) & mask
    return at


@kernel
def _enter(g: Graph, a: int, b: int, edge: int) -> None:
    """Make `edge` what the table says for the nodes a and b."""
    if 2 * g.used[0] >= len(g.keys):
        g.keys[:] = -1
        g.used[0] = 0
        for e in range(len(g.u)):
            if g.alive[e]:
                at = _slot(g.keys, g.u[e], g.v[e])
                g.keys[at] = (np.int64(min(g.u[e], g.v[e])) << 32) | np.int64(max(g.u[e], g.v[e]))
                g.values[at] = e
                g.used[0] += 1
    at = _slot(g.keys, a, b)
    if g.keys[at] == -1:
        g.keys[at] = (np.int64(min(a, b)) << 32) | np.int64(max(a, b))
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
def combine(g: Graph, e: int, f: int) -> None:
    """Add the faces of edge `f` to edge `e`."""
    for k in range(g.stats.shape[1]):
        g.stats[e, k] += g.stats[f, k]
    g.tie[e] = min(g.tie[e], g.tie[f])
    if g.affinity1[f] > g.affinity1[e] or (
        g.affinity1[f] == g.affinity1[e] and g.face1[f] > g.face1[e]
    ):
        g.affinity1[e], g.face1[e] = g.affinity1[f], g.face1[f]
    if g.affinity3[f] > g.affinity3[e] or (
        g.affinity3[f] == g.affinity3[e] and g.face3[f] > g.face3[e]
    ):
        g.affinity3[e], g.face3[e] = g.affinity3[f], g.face3[f]


@kernel
def _rate(g: Graph, p: Priorities, e: int, phase: int, quantile: int, least: int) -> bool:
    """Set the priority of an edge; whether it takes part in the phase.

    `least` is in units of 1 / 256 of an affinity level.
    """
    numerator, denominator = np.int64(0), np.int64(1)
    if phase == 1:
        if g.affinity1[e] < 0:
            return False
        numerator, word = np.int64(g.affinity1[e]), g.face1[e]
    elif phase == 3:
        numerator, word = np.int64(g.affinity3[e]), g.face3[e]
    else:
        word = ~g.tie[e]
        if quantile == 0:
            numerator, denominator = np.int64(g.stats[e, 0]), np.int64(g.stats[e, 1])
            if denominator == 0:
                return False
        else:
            faces = np.int64(0)
            for a in range(256):
                faces += g.stats[e, a]
            if faces == 0:
                return False
            # The smallest affinity that at least `quantile` percent do not exceed.
            below = np.int64(g.stats[e, 0])
            while 100 * below < quantile * faces:
                numerator += 1
                below += g.stats[e, numerator]
    p.numerator[e], p.denominator[e], p.word[e] = numerator, denominator, word
    p.score[e] = numerator / denominator
    return bool(256 * numerator >= least * denominator)


@kernel
def _merge(
    g: Graph,
    p: Priorities,
    keep: int,
    gone: int,
    strip: bool,
    phase: int,
    quantile: int,
    least: int,
) -> None:
    """Merge node `gone` into `keep`; with `strip` as a speck that counts only in phase 3."""
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
    half = g.head[gone]
    while half != -1:
        following = g.after[half]
        e = half >> 1
        if g.alive[e]:
            other = g.v[e] if half & 1 == 0 else g.u[e]
            if other == keep:
                _discard(g, p, e)
            else:
                if strip:
                    _strip(g, e)
                at = _slot(g.keys, keep, other)
                if g.keys[at] != -1 and g.alive[g.values[at]]:
                    f = g.values[at]
                    _discard(g, p, e)
                    combine(g, f, e)
                    if _rate(g, p, f, phase, quantile, least):
                        push_or_move(p, f)
                    elif p.where[f] >= 0:
                        remove(p, f)
                else:
                    if half & 1 == 0:
                        g.u[e] = keep
                    else:
                        g.v[e] = keep
                    _enter(g, keep, other, e)
                    _append(g, keep, half)
        half = following
    g.head[gone] = -1


@inlined
def _discard(g: Graph, p: Priorities, e: int) -> None:
    g.alive[e] = False
    if p.where[e] >= 0:
        remove(p, e)


@inlined
def _freeze(g: Graph, a: int, b: int, phase: int) -> None:
    if g.stage[a] == phase:
        g.frozen[a] = True
    if g.stage[b] == phase:
        g.frozen[b] = True


@kernel
def run_phase(
    g: Graph, p: Priorities, merges: Merges, phase: int, quantile: int, least: int, limit: int
) -> None:
    """Run one phase; afterwards nodes that are not frozen are in the next one.

    Parameters
    ----------
    g, p, merges
        Changed in place.
    phase : int
        1 (supervoxels), 2 (agglomeration) or 3 (absorption).
    quantile : int
        0 for the mean, else the percentile that phase 2 compares.
    least : int
        Merge while ``256 * score >= least``.
    limit : int
        In phases 1 and 3: nodes of at least this many voxels do not merge with each other.
    """
    n = 0
    for e in range(len(g.u)):
        p.where[e] = -1
        if g.alive[e] and _rate(g, p, e, phase, quantile, least):
            p.heap[n] = e
            p.where[e] = n
            n += 1
    p.length[0] = n
    heapify(p)
    while p.length[0] > 0:
        e = pop(p)
        a, b = g.u[e], g.v[e]
        if g.stage[a] != phase and g.stage[b] != phase:
            continue
        a_free = g.stage[a] == phase and not g.frozen[a]
        b_free = g.stage[b] == phase and not g.frozen[b]
        both = a_free and b_free
        strip = False
        if phase != 2:
            a_big, b_big = g.size[a] >= limit, g.size[b] >= limit
            if a_big and b_big:
                if phase == 1:
                    g.affinity1[e] = -1
                else:
                    g.alive[e] = False
                continue
            if not both and ((a_big and b_free) or (b_big and a_free)):
                if b_big:
                    a, b = b, a
                both = True
                strip = g.stage[a] < phase
        if not both:
            _freeze(g, a, b, phase)
            continue
        if not strip and g.degree[a] < g.degree[b]:
            a, b = b, a
        k = merges.n[0]
        merges.face[k] = ~p.word[e] if phase == 2 else p.word[e]
        merges.phase[k] = phase
        merges.numerator[k], merges.denominator[k] = p.numerator[e], p.denominator[e]
        merges.n[0] = k + 1
        _merge(g, p, a, b, strip, phase, quantile, least)
    advance(g, phase)


@kernel
def advance(g: Graph, phase: int) -> None:
    """Let every node that is not frozen go on to the next phase."""
    for i in range(len(g.id)):
        if g.stage[i] == phase and not g.frozen[i]:
            g.stage[i] = phase + 1
