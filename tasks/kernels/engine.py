"""The phases of agglomeration on a region graph, with freezing.

Edges are taken in descending order of their score. What is incomplete, or
hangs on something incomplete, is frozen: its merge is left to a larger region.
Because every linkage here is reducible and every order total, what is merged
is what the greedy order over the whole volume would merge (design, section
3.3; Bailoni et al. 2022 name the linkages, Zlateski & Seung 2015 the rule of
sizes).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.kernels.graph import Graph, living, merge_nodes
from tasks.kernels.heap import Priorities, heapify, pop, push_or_move, remove
from tasks.kernels.jit import inlined, kernel


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
def _record(merges: Merges, face: np.uint64, phase: int, numerator: int, denominator: int) -> None:
    k = merges.n[0]
    merges.face[k] = face
    merges.phase[k] = phase
    merges.numerator[k], merges.denominator[k] = numerator, denominator
    merges.n[0] = k + 1


@inlined
def _freeze(g: Graph, a: int, b: int, phase: int) -> None:
    if g.stage[a] == phase:
        g.frozen[a] = True
    if g.stage[b] == phase:
        g.frozen[b] = True


@kernel
def advance(g: Graph, phase: int) -> None:
    """Let every node that is not frozen go on to the next phase."""
    for i in range(len(g.id)):
        if g.stage[i] == phase and not g.frozen[i]:
            g.stage[i] = phase + 1


@kernel
def link_by_size(g: Graph, merges: Merges, phase: int, least: int, limit: int) -> None:
    """Phase 1 (supervoxels) or 3 (absorption): single linkage with a rule of sizes.

    The largest face of a merged pair is one of the parts' largest faces, so the
    order can be sorted once.

    Parameters
    ----------
    g, merges
        Changed in place.
    phase : int
        1 or 3.
    least : int
        Smallest affinity of a face along which nodes merge.
    limit : int
        Nodes of at least this many voxels do not merge with each other.
    """
    affinity = g.affinity1 if phase == 1 else g.affinity3
    face = g.face1 if phase == 1 else g.face3
    order = _descending(g, affinity, face, phase, least)
    entry_face = face[order]
    for k in range(len(order)):
        e = living(g, order[k])
        if not g.alive[e] or face[e] != entry_face[k]:
            continue  # the edge goes by a larger face, which was taken before
        a, b = g.u[e], g.v[e]
        if g.stage[a] != phase and g.stage[b] != phase:
            continue
        a_big, b_big = g.size[a] >= limit, g.size[b] >= limit
        if a_big and b_big:
            if phase == 1:
                affinity[e] = -1
            else:
                g.alive[e] = False
            continue
        a_free = g.stage[a] == phase and not g.frozen[a]
        b_free = g.stage[b] == phase and not g.frozen[b]
        if (a_big and b_free) or (a_free and b_free) or (b_big and a_free):
            _record(merges, entry_face[k], phase, affinity[e], 1)
            strip = g.stage[a] != g.stage[b]
            # A speck moves into its host; of equals, the one with fewer edges moves.
            if (strip and b_big) or (not strip and g.degree[a] < g.degree[b]):
                a, b = b, a
            merge_nodes(g, a, b, strip)
        else:
            _freeze(g, a, b, phase)
    advance(g, phase)


@kernel
def _descending(
    g: Graph,
    affinity: npt.NDArray[np.int16],
    face: npt.NDArray[np.uint64],
    phase: int,
    least: int,
) -> npt.NDArray[np.int64]:
    """Edges that take part in a phase by (affinity, face), the larger first."""
    taking = np.empty(len(affinity), np.int64)
    n = 0
    counts = np.zeros(257, np.int64)
    for e in range(len(affinity)):
        concerned = g.stage[g.u[e]] == phase or g.stage[g.v[e]] == phase
        if g.alive[e] and concerned and affinity[e] >= least:
            taking[n] = e
            n += 1
            counts[255 - affinity[e]] += 1
    ends = np.cumsum(counts)
    by_face = np.argsort(face[taking[:n]])  # faces are unique
    order = np.empty(n, np.int64)
    for k in range(n):  # ascending faces fill each affinity from its end
        e = taking[by_face[k]]
        ends[255 - affinity[e]] -= 1
        order[ends[255 - affinity[e]]] = e
    return order


@kernel
def _rate(g: Graph, p: Priorities, e: int, quantile: int, least: int) -> bool:
    """Set the priority of an edge in phase 2; whether it reaches the threshold."""
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
        numerator, denominator = np.int64(0), np.int64(1)
        below = np.int64(g.stats[e, 0])
        while 100 * below < quantile * faces:
            numerator += 1
            below += g.stats[e, numerator]
    p.numerator[e], p.denominator[e], p.word[e] = numerator, denominator, ~g.tie[e]
    p.score[e] = numerator / denominator
    return bool(256 * numerator >= least * denominator)


@kernel
def link_by_score(g: Graph, p: Priorities, merges: Merges, quantile: int, least: int) -> None:
    """Phase 2 (agglomeration): merge the pair with the highest score first.

    Parameters
    ----------
    g, p, merges
        Changed in place.
    quantile : int
        0 for the mean, else the percentile of affinities that is the score.
    least : int
        Merge while ``256 * score >= least``, the score in levels 0…255.
    """
    n = 0
    for e in range(len(g.u)):
        concerned = g.stage[g.u[e]] == 2 or g.stage[g.v[e]] == 2
        if g.alive[e] and concerned and _rate(g, p, e, quantile, least):
            p.heap[n], p.key[n], p.where[e] = e, p.score[e], n
            n += 1
    p.length[0] = n
    heapify(p)
    while p.length[0] > 0:
        e = pop(p)
        if not g.alive[e]:
            continue
        a, b = g.u[e], g.v[e]
        if g.stage[a] != 2 or g.stage[b] != 2 or g.frozen[a] or g.frozen[b]:
            _freeze(g, a, b, 2)
            continue
        if g.degree[a] < g.degree[b]:
            a, b = b, a
        _record(merges, ~p.word[e], 2, p.numerator[e], p.denominator[e])
        for k in range(merge_nodes(g, a, b, False)):
            f = g.touched[k]
            if _rate(g, p, f, quantile, least):
                push_or_move(p, f)
            elif p.where[f] >= 0:
                remove(p, f)
    advance(g, 2)
