"""The region graph: what steps hand on, and what the engine merges.

All statistics are integers that merge by +, min and max, so the order of
merging cannot matter. Ids and faces are packed coordinates (`tasks.coordinates`).
Edges name their nodes by row, so that a graph is read and joined with others
without looking anything up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.tables import Columns

Array = npt.NDArray[Any]

NO_STATS: dict[str, Array] = {
    "mean": np.empty((0, 2), np.int64),
    # One count an affinity level; two segments never share 2^31 faces of one level.
    "quantile": np.empty((0, 256), np.int32),
}
"""The type of the statistics that each kind of linkage needs."""


@dataclass
class Nodes:
    """Columns of nodes; see `tasks.kernels.graph.Graph` for their meaning."""

    id: Array
    size: Array
    absorbed: Array
    lower: Array
    upper: Array
    total: Array
    stage: Array

    def __len__(self) -> int:
        return len(self.id)

    @classmethod
    def empty(cls) -> Self:
        """No nodes."""
        return cls(
            id=np.empty(0, np.uint64),
            size=np.empty(0, np.int64),
            absorbed=np.empty(0, np.int64),
            lower=np.empty((0, 3), np.int32),
            upper=np.empty((0, 3), np.int32),
            total=np.empty((0, 3), np.int64),
            stage=np.empty(0, np.int8),
        )


@dataclass
class Edges:
    """Columns of edges, as in `Graph`; `u` and `v` are rows of nodes."""

    u: Array
    v: Array
    stats: Array
    tie: Array
    affinity1: Array
    face1: Array
    affinity3: Array
    face3: Array

    def __len__(self) -> int:
        return len(self.u)

    @classmethod
    def empty(cls, kind: str) -> Self:
        """No edges, with the statistics of a kind of linkage."""
        return cls(
            u=np.empty(0, np.int32),
            v=np.empty(0, np.int32),
            stats=NO_STATS[kind],
            tie=np.empty(0, np.uint64),
            affinity1=np.empty(0, np.int16),
            face1=np.empty(0, np.uint64),
            affinity3=np.empty(0, np.int16),
            face3=np.empty(0, np.uint64),
        )

    @classmethod
    def of_faces(cls, u: Array, v: Array, affinity: Array, face: Array, kind: str) -> Self:
        """One edge for every face; `merge_parallel` makes them unique."""
        stats = np.zeros((len(u), NO_STATS[kind].shape[1]), NO_STATS[kind].dtype)
        if kind == "mean":
            stats[:, 0], stats[:, 1] = affinity, 1
        else:
            stats[np.arange(len(u)), affinity] = 1
        a = affinity.astype(np.int16)
        return cls(u.astype(np.int32), v.astype(np.int32), stats, face, a, face, a, face)


T = TypeVar("T", Nodes, Edges)


def kind_of(linkage: str) -> str:
    """Which statistics a linkage needs: ``mean`` or ``quantile``."""
    return linkage.partition("-")[0]


def bytes_of_edges(voxels: int, segment: Mapping[str, Any]) -> int:
    """Projected memory of the edges among so many voxels while they are built or merged.

    Without supervoxels there is about one edge a voxel, with them at most one in
    20; an edge's statistics are held up to three times at once.
    """
    stats = NO_STATS[kind_of(segment["linkage"])]
    n = voxels if segment["supervoxel"] is None else voxels // 20
    return n * (300 + 3 * int(stats.itemsize * stats.shape[1]))


def percentile_of(linkage: str) -> int:
    """The percentile of a quantile linkage, 0 for the mean.

    Examples
    --------
    >>> percentile_of("quantile-75"), percentile_of("mean")
    (75, 0)
    """
    return int(linkage.partition("-")[2] or 0)


def select(table: T, rows: Array) -> T:
    """The given rows (indices or a mask) of a table."""
    return type(table)(**{f.name: getattr(table, f.name)[rows] for f in fields(table)})


def stack(parts: Iterable[T], empty: T) -> T:
    """The rows of all parts, in order; `empty` gives the types."""
    found = [empty, *parts]
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in found])
        for field in fields(empty)
    }
    return type(empty)(**columns)


def join_edges(parts: list[tuple[Nodes, Edges]], kind: str) -> Edges:
    """Edges of several graphs, with rows of the nodes stacked in the same order."""
    moved = []
    offset = 0
    for nodes, edges in parts:
        shifted = select(edges, np.arange(len(edges)))
        shifted.u = edges.u + np.int32(offset)
        shifted.v = edges.v + np.int32(offset)
        moved.append(shifted)
        offset += len(nodes)
    return stack(moved, Edges.empty(kind))


def join_nodes(nodes: Nodes, root: Array) -> tuple[Nodes, Array]:
    """Merge nodes that are one: `root` gives each row's representative row.

    Returns
    -------
    joined : Nodes
        One row for each representative, in their order.
    row : ndarray of int32
        The joined row of each given row.
    """
    kept, row = np.unique(root, return_inverse=True)
    joined = select(nodes, kept)
    for name, ufunc in (
        ("id", np.minimum),
        ("lower", np.minimum),
        ("upper", np.maximum),
        ("stage", np.minimum),
    ):
        ufunc.at(getattr(joined, name), row, getattr(nodes, name))
    for name in ("size", "absorbed", "total"):
        column = np.zeros_like(getattr(joined, name))
        np.add.at(column, row, getattr(nodes, name))
        setattr(joined, name, column)
    return joined, row.astype(np.int32)


def merge_parallel(edges: Edges) -> Edges:
    """One edge for each pair of nodes (u < v), without loops."""
    u, v = np.minimum(edges.u, edges.v), np.maximum(edges.u, edges.v)
    between = np.flatnonzero(u != v)
    order = between[np.lexsort((v[between], u[between]))]
    if not len(order):
        return select(edges, order)
    u, v = u[order], v[order]
    new = np.concatenate(([True], (u[1:] != u[:-1]) | (v[1:] != v[:-1])))
    begin = np.flatnonzero(new)
    largest1 = _largest(edges.affinity1[order], edges.face1[order], new)
    largest3 = _largest(edges.affinity3[order], edges.face3[order], new)
    return Edges(
        u=u[begin],
        v=v[begin],
        stats=np.add.reduceat(edges.stats[order], begin, axis=0, dtype=edges.stats.dtype),
        tie=np.maximum.reduceat(edges.tie[order], begin),
        affinity1=edges.affinity1[order][largest1],
        face1=edges.face1[order][largest1],
        affinity3=edges.affinity3[order][largest3],
        face3=edges.face3[order][largest3],
    )


def _largest(affinity: Array, face: Array, new: Array) -> Array:
    """Row of the largest (affinity, face) in each run of rows that `new` begins."""
    run = np.cumsum(new)
    order = np.lexsort((face, affinity, run))
    last = np.append(np.flatnonzero(new)[1:], len(run)) - 1
    rows: Array = order[last]
    return rows


def to_columns(table: Nodes | Edges) -> Columns:
    """A table as flat columns."""
    columns: Columns = {}
    for field in fields(table):
        values = getattr(table, field.name)
        if values.ndim == 1:
            columns[field.name] = values
        else:
            for k in range(values.shape[1]):
                columns[f"{field.name}_{k}"] = values[:, k]
    return columns


def nodes_from(columns: Columns) -> Nodes:
    """The inverse of `to_columns` for nodes."""
    return Nodes(**_fold(columns, Nodes.empty()))


def edges_from(columns: Columns, kind: str) -> Edges:
    """The inverse of `to_columns` for edges."""
    return Edges(**_fold(columns, Edges.empty(kind)))


def _fold(columns: Columns, empty: Nodes | Edges) -> Columns:
    folded = {}
    for field in fields(empty):
        like = getattr(empty, field.name)
        if like.ndim == 1:
            folded[field.name] = columns[field.name]
        else:
            names = [f"{field.name}_{k}" for k in range(like.shape[1])]
            folded[field.name] = np.stack([columns[name] for name in names], axis=1)
    return folded
