"""A binary heap of edges with exact priorities.

The order is total: by the score ``numerator / denominator`` as an exact fraction, then
by a 64-bit word, the larger first. Scores are compared as floats first: a
correctly rounded division is monotone, so unequal floats order the fractions
rightly, and only equal floats need the integers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.kernels.jit import inlined, kernel


class Priorities(NamedTuple):
    """Priorities of all edges, and the heap of those that wait.

    Attributes
    ----------
    numerator, denominator : ndarray of int64
        The exact score of each edge.
    score : ndarray of float64
        The same, rounded.
    word : ndarray of uint64
        Decides between equal scores; the larger goes first.
    heap : ndarray of int32
        Edges that wait, the first on top.
    where : ndarray of int32
        Position of each edge in the heap, or -1.
    length : ndarray of int64, (1,)
        Number of edges that wait.
    """

    numerator: npt.NDArray[np.int64]
    denominator: npt.NDArray[np.int64]
    score: npt.NDArray[np.float64]
    word: npt.NDArray[np.uint64]
    heap: npt.NDArray[np.int32]
    where: npt.NDArray[np.int32]
    length: npt.NDArray[np.int64]


@kernel
def compare_fractions(a: int, b: int, c: int, d: int) -> int:
    """Sign of a/b - c/d for non-negative a, c and positive b, d, by Euclid's way.

    No product is formed, so nothing overflows.

    Examples
    --------
    >>> compare_fractions(1, 3, 333, 1000), compare_fractions(2, 4, 1, 2)
    (1, 0)
    """
    sign = 1
    while True:
        p, q = a // b, c // d
        if p != q:
            return sign if p > q else -sign
        a, c = a - p * b, c - q * d
        if a == 0 or c == 0:
            return sign * ((a > 0) - (c > 0))
        # Both fractions are below 1 now; their inverses compare the other way.
        a, b, c, d = b, a, d, c
        sign = -sign


@inlined
def _before(p: Priorities, e: int, f: int) -> bool:
    """Whether edge `e` leaves the heap before edge `f`."""
    if p.score[e] != p.score[f]:
        return p.score[e] > p.score[f]
    if p.denominator[e] != p.denominator[f]:
        sign = compare_fractions(p.numerator[e], p.denominator[e], p.numerator[f], p.denominator[f])
        if sign != 0:
            return sign > 0
    elif p.numerator[e] != p.numerator[f]:
        return p.numerator[e] > p.numerator[f]
    return p.word[e] > p.word[f]


@kernel
def _up(p: Priorities, at: int) -> None:
    edge = p.heap[at]
    while at > 0:
        above = (at - 1) >> 1
        if not _before(p, edge, p.heap[above]):
            break
        p.heap[at] = p.heap[above]
        p.where[p.heap[at]] = at
        at = above
    p.heap[at] = edge
    p.where[edge] = at


@kernel
def _down(p: Priorities, at: int) -> None:
    edge = p.heap[at]
    n = p.length[0]
    while True:
        below = 2 * at + 1
        if below >= n:
            break
        if below + 1 < n and _before(p, p.heap[below + 1], p.heap[below]):
            below += 1
        if not _before(p, p.heap[below], edge):
            break
        p.heap[at] = p.heap[below]
        p.where[p.heap[at]] = at
        at = below
    p.heap[at] = edge
    p.where[edge] = at


@kernel
def heapify(p: Priorities) -> None:
    """Establish the order over the first `length` entries of the heap."""
    for at in range(p.length[0] // 2 - 1, -1, -1):
        _down(p, at)


@kernel
def pop(p: Priorities) -> int:
    """Take the first edge off the heap."""
    edge = p.heap[0]
    remove(p, edge)
    return edge


@kernel
def remove(p: Priorities, edge: int) -> None:
    """Take an edge that waits off the heap."""
    at = p.where[edge]
    p.where[edge] = -1
    p.length[0] -= 1
    last = p.heap[p.length[0]]
    if last != edge:
        p.heap[at] = last
        p.where[last] = at
        _up(p, at)
        _down(p, p.where[last])


@kernel
def push_or_move(p: Priorities, edge: int) -> None:
    """Put an edge whose priority is new where it belongs."""
    if p.where[edge] < 0:
        at = p.length[0]
        p.heap[at] = edge
        p.where[edge] = at
        p.length[0] += 1
        _up(p, at)
    else:
        _up(p, p.where[edge])
        _down(p, p.where[edge])
