"""The three phases on one region, and what goes up to the next one.

A region is a block or an octree node. What is final is told apart from the
residual: nodes that touch a side beyond which the volume goes on, and what
hangs on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import SCALE, level
from tasks.kernels.engine import Merges, advance, link_by_score, link_by_size
from tasks.kernels.graph import Graph, connect
from tasks.kernels.heap import Priorities
from tasks.regiongraph import Array, Edges, Nodes, percentile_of, select

THROUGH = 4
"""Stage of a node that is through all three phases."""


@dataclass(frozen=True)
class Outcome:
    """What one region made of its graph.

    Attributes
    ----------
    id : ndarray of uint64, (n,)
        For each node that went in, its id now.
    final : Nodes
        Nodes that nothing beyond the region can change, by ascending id.
    residual : Nodes
        The other nodes, by ascending id.
    row : ndarray of int32, (n,)
        For each node that went in, its row in `residual`, or -1 if it is final.
    edges : Edges
        Between nodes of `residual`.
    merges : dict of ndarray
        Columns face, phase, numerator, denominator; in the order of merging.
    """

    id: Array
    final: Nodes
    residual: Nodes
    row: Array
    edges: Edges
    merges: dict[str, Array]


def lowest(fraction: float) -> int:
    """The smallest uint8 affinity that reaches a threshold."""
    return -(-level(fraction) // SCALE)


def agglomerate(
    nodes: Nodes, edges: Edges, incomplete: npt.NDArray[np.bool_], segment: Mapping[str, Any]
) -> Outcome:
    """Run the phases of design section 3.3 on a region graph.

    Parameters
    ----------
    nodes, edges
        The graph; edges unique and without loops.
    incomplete : ndarray of bool, (n,)
        Nodes that touch a side beyond which the volume goes on.
    segment : mapping
        `linkage`, `threshold`, `supervoxel`, `absorb_size` of the configuration.

    Raises
    ------
    RuntimeError
        If nothing is incomplete and yet a node is not final: a defect of the engine.
    """
    graph, priorities, merges = _load(nodes, edges, incomplete)
    if segment["supervoxel"] is None:
        advance(graph, 1)
    else:
        least, size = lowest(segment["supervoxel"]["affinity"]), segment["supervoxel"]["size"]
        link_by_size(graph, merges, 1, least, size)
    if segment["threshold"] is None:
        advance(graph, 2)
    else:
        percentile = percentile_of(segment["linkage"])
        link_by_score(graph, priorities, merges, percentile, level(segment["threshold"]))
    if segment["absorb_size"]:
        link_by_size(graph, merges, 3, 0, segment["absorb_size"])
    else:
        advance(graph, 3)
    alive = graph.joined == np.arange(len(nodes))
    if not incomplete.any() and (graph.stage[alive] < THROUGH).any():
        raise RuntimeError("a node of a complete region graph is not final: please report this")
    return _split(graph, merges)


def _load(nodes: Nodes, edges: Edges, incomplete: Array) -> tuple[Graph, Priorities, Merges]:
    n, m = len(nodes), len(edges)
    room = 16
    while room < 4 * m:
        room *= 2
    graph = Graph(
        id=nodes.id.copy(),
        size=nodes.size.copy(),
        absorbed=nodes.absorbed.copy(),
        lower=nodes.lower.copy(),
        upper=nodes.upper.copy(),
        total=nodes.total.copy(),
        stage=nodes.stage.copy(),
        frozen=incomplete.copy(),
        joined=np.arange(n, dtype=np.int32),
        u=edges.u.copy(),
        v=edges.v.copy(),
        alive=np.ones(m, np.bool_),
        stats=edges.stats.copy(),
        tie=edges.tie.copy(),
        affinity1=edges.affinity1.copy(),
        face1=edges.face1.copy(),
        affinity3=edges.affinity3.copy(),
        face3=edges.face3.copy(),
        head=np.full(n, -1, np.int32),
        tail=np.full(n, -1, np.int32),
        degree=np.zeros(n, np.int32),
        after=np.full(2 * m, -1, np.int32),
        keys=np.full(room, -1, np.int64),
        values=np.zeros(room, np.int32),
        used=np.zeros(1, np.int64),
        heir=np.full(m, -1, np.int32),
        touched=np.zeros(m, np.int32),
    )
    connect(graph)
    priorities = Priorities(
        numerator=np.zeros(m, np.int64),
        denominator=np.ones(m, np.int64),
        score=np.zeros(m, np.float64),
        word=np.zeros(m, np.uint64),
        heap=np.zeros(m, np.int32),
        key=np.zeros(m, np.float64),
        where=np.full(m, -1, np.int32),
        length=np.zeros(1, np.int64),
    )
    merges = Merges(
        face=np.zeros(n, np.uint64),
        phase=np.zeros(n, np.uint8),
        numerator=np.zeros(n, np.int64),
        denominator=np.zeros(n, np.int64),
        n=np.zeros(1, np.int64),
    )
    return graph, priorities, merges


def _split(graph: Graph, merges: Merges) -> Outcome:
    root = graph.joined
    while not np.array_equal(root, root[root]):
        root = root[root]
    now = Nodes(
        graph.id, graph.size, graph.absorbed, graph.lower, graph.upper, graph.total, graph.stage
    )
    is_root = root == np.arange(len(root))
    is_final = graph.stage == THROUGH
    kept = np.flatnonzero(is_root & ~is_final)
    kept = kept[np.argsort(graph.id[kept])]
    final = np.flatnonzero(is_root & is_final)
    final = final[np.argsort(graph.id[final])]
    row = np.full(len(root), -1, np.int32)
    row[kept] = np.arange(len(kept), dtype=np.int32)
    row = row[root]
    edges = Edges(
        graph.u, graph.v, graph.stats, graph.tie,
        graph.affinity1, graph.face1, graph.affinity3, graph.face3,
    )  # fmt: skip
    lasting = select(edges, graph.alive & (row[graph.u] >= 0) & (row[graph.v] >= 0))
    lasting.u, lasting.v = row[lasting.u], row[lasting.v]
    n = merges.n[0]
    return Outcome(
        id=graph.id[root],
        final=select(now, final),
        residual=select(now, kept),
        row=row,
        edges=lasting,
        merges={
            "face": merges.face[:n],
            "phase": merges.phase[:n],
            "numerator": merges.numerator[:n],
            "denominator": merges.denominator[:n],
        },
    )
