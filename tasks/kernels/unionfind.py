"""Union-find whose roots are the smallest members.

A parent is never larger than its child, so one pass in ascending order
flattens a forest, and the root of a set does not depend on the order in which
it was joined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.kernels.jit import inlined, kernel


@inlined
def find(parent: npt.NDArray[np.int32], i: int) -> int:
    """Root of `i`; halves the path on the way."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@inlined
def unite(parent: npt.NDArray[np.int32], i: int, j: int) -> None:
    """Join the sets of `i` and `j` under the smaller root."""
    i = find(parent, i)
    j = find(parent, j)
    if i < j:
        parent[j] = i
    else:
        parent[i] = j


@kernel
def components(n: int, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Root (smallest member) of every item of 0…n-1 when ``a[i]`` is joined with ``b[i]``."""
    parent = np.arange(n).astype(np.int32)
    for i in range(len(a)):
        unite(parent, a[i], b[i])
    for i in range(n):
        parent[i] = parent[parent[i]]
    return parent
