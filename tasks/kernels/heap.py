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
    key : ndarray of float64
        Their scores in the same order, because most comparisons need no more.
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
    key: npt.NDArray[np.float64]
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
def _wins_tie(p: Priorities, e: int, f: int) -> bool:
    """Whether edge `e` leaves the heap before `f` although their rounded scores are equal."""
    if p.denominator[e] != p.denominator[f]:
        sign = compare_fractions(p.numerator[e], p.denominator[e], p.numerator[f], p.denominator[f])
        if sign != 0:
            return sign > 0
    elif p.numerator[e] != p.numerator[f]:
        return bool(p.numerator[e] > p.numerator[f])
    return bool(p.word[e] > p.word[f])


@inlined
def _before(p: Priorities, key: float, edge: int, at: int) -> bool:
    """Whether `edge` with the score `key` goes before the entry at a position."""
    other = p.key[at]
    if key != other:
        return bool(key > other)
    return _wins_tie(p, edge, p.heap[at])


@inlined
def _place(p: Priorities, at: int, edge: int, key: float) -> None:
    p.heap[at], p.key[at] = edge, key
    p.where[edge] = at


@kernel
def _up(p: Priorities, at: int, edge: int) -> None:
    """Put `edge` where it belongs on the way from the free position `at` to the top."""
    key = p.score[edge]
    while at > 0:
        above = (at - 1) >> 1
        if not _before(p, key, edge, above):
            break
        _place(p, at, p.heap[above], p.key[above])
        at = above
    _place(p, at, edge, key)


@kernel
def _down(p: Priorities, at: int, edge: int) -> None:
    """Put `edge` where it belongs on the way from the free position `at` to the bottom."""
    key = p.score[edge]
    n = p.length[0]
    while True:
        below = 2 * at + 1
        if below >= n:
            break
        if below + 1 < n and _before(p, p.key[below + 1], p.heap[below + 1], below):
            below += 1
        if _before(p, key, edge, below):
            break
        _place(p, at, p.heap[below], p.key[below])
        at = below
    _place(p, at, edge, key)


@kernel
def heapify(p: Priorities) -> None:
    """Establish the order over the first `length` entries of the heap."""
    for at in range(p.length[0] // 2 - 1, -1, -1):
        _down(p, at, p.heap[at])


@kernel
def pop(p: Priorities) -> int:
    """Take the first edge off the heap."""
    edge = p.heap[0]
    remove(p, edge)
    return int(edge)


@kernel
def remove(p: Priorities, edge: int) -> None:
    """Take an edge that waits off the heap."""
    at = p.where[edge]
    p.where[edge] = -1
    p.length[0] -= 1
    last = p.heap[p.length[0]]
    if last != edge:
        _move(p, at, last)


@kernel
def push_or_move(p: Priorities, edge: int) -> None:
    """Put an edge whose priority is new where it belongs."""
    if p.where[edge] < 0:
        p.length[0] += 1
        _up(p, p.length[0] - 1, edge)
    else:
        _move(p, p.where[edge], edge)


@kernel
def _move(p: Priorities, at: int, edge: int) -> None:
    """Put `edge` where it belongs, from the free position `at`."""
    if at > 0 and _before(p, p.score[edge], edge, (at - 1) >> 1):
        _up(p, at, edge)
    else:
        _down(p, at, edge)
