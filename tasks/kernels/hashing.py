"""An open-addressing hash table from pairs of nodes to whatever lies beside it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tasks.kernels.jit import inlined

EMPTY = -1
"""Key of a slot that holds nothing."""


@inlined
def pair_key(a: int, b: int) -> np.int64:
    """A key for an unordered pair of numbers below 2^31; the smaller is in the upper half."""
    return (np.int64(min(a, b)) << 32) | np.int64(max(a, b))


@inlined
def slot(keys: npt.NDArray[np.int64], key: np.int64) -> np.int64:
    """Where `key` lies, or the empty slot for it. The length of `keys` is a power of two.

    Multiplying by 2^64 over the golden ratio spreads pairs of consecutive
    numbers (Knuth, The Art of Computer Programming, section 6.4).
    """
    mask = len(keys) - 1
    at = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask
    while keys[at] != EMPTY and keys[at] != key:
        at = (at + 1) & mask
    return at
