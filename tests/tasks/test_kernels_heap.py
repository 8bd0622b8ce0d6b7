from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.kernels.heap import (
    Priorities,
    compare_fractions,
    heapify,
    pop,
    push_or_move,
    remove,
)

numerators = st.integers(0, 2**60)
denominators = st.integers(1, 2**60)


@given(a=numerators, b=denominators, c=numerators, d=denominators)
def test_fractions_are_compared_exactly(a, b, c, d):
    exact = Fraction(a, b) - Fraction(c, d)
    assert compare_fractions(a, b, c, d) == (exact > 0) - (exact < 0)


@given(a=st.integers(0, 50), b=st.integers(1, 50), scale=st.integers(1, 2**50))
def test_equal_fractions_are_equal(a, b, scale):
    assert compare_fractions(a, b, a * scale, b * scale) == 0


def priorities(scores, words):
    n = len(scores)
    return Priorities(
        numerator=np.array([score[0] for score in scores], np.int64),
        denominator=np.array([score[1] for score in scores], np.int64),
        score=np.array([score[0] / score[1] for score in scores], np.float64),
        word=np.array(words, np.uint64),
        heap=np.arange(n, dtype=np.int32),
        key=np.array([score[0] / score[1] for score in scores], np.float64),
        where=np.arange(n, dtype=np.int32),
        length=np.array([n], np.int64),
    )


# Fractions that round to the same float, and others.
close = st.sampled_from([(2**53 - 1, 2**53), (2**54 - 1, 2**54), (1, 1), (3, 3), (1, 2), (200, 3)])


@given(scores=st.lists(close, min_size=1, max_size=40), data=st.data())
def test_edges_leave_in_exact_order(scores, data):
    words = data.draw(st.permutations(range(len(scores))))
    p = priorities(scores, words)
    heapify(p)
    gone = data.draw(st.sets(st.integers(0, len(scores) - 1), max_size=len(scores) - 1))
    for edge in gone:
        remove(p, edge)
    for edge in data.draw(st.lists(st.sampled_from(sorted(gone)))) if gone else []:
        push_or_move(p, edge)
    waiting = np.flatnonzero(p.where >= 0)
    expected = sorted(waiting, key=lambda e: (Fraction(*scores[e]), words[e]), reverse=True)
    assert [pop(p) for _ in waiting] == expected
    assert p.length[0] == 0


@given(scores=st.lists(close, min_size=2, max_size=30), data=st.data())
def test_edges_move_when_their_score_changes(scores, data):
    p = priorities(scores, list(range(len(scores))))
    heapify(p)
    for _ in range(5):
        edge = data.draw(st.integers(0, len(scores) - 1))
        scores[edge] = data.draw(close)
        p.numerator[edge], p.denominator[edge] = scores[edge]
        p.score[edge] = scores[edge][0] / scores[edge][1]
        push_or_move(p, edge)
    expected = sorted(range(len(scores)), key=lambda e: (Fraction(*scores[e]), e), reverse=True)
    assert [pop(p) for _ in scores] == expected
