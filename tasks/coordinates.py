"""Packed coordinates: the names of voxels, segments and faces.

A voxel's key is ``z << 42 | y << 21 | x``, a segment's id is 1 + the smallest
key of its voxels, and a face is ``key(upper voxel) << 2 | axis``. None of them
depends on the shape of the volume or on a block. Keys are ordered like voxels
in C order (limits: `pipeline.geometry.KEY_LIMITS`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Box, Triple
from pipeline.tables import Columns

Array = npt.NDArray[Any]


def pack(voxels: Array) -> npt.NDArray[np.uint64]:
    """Packed coordinates of voxels: an array of shape (n, 3), (z, y, x).

    Examples
    --------
    >>> int(pack(np.array([[1, 0, 3]]))[0]) == (1 << 42) + 3
    True
    """
    z, y, x = voxels.astype(np.uint64).T
    key: npt.NDArray[np.uint64] = z << np.uint64(42) | y << np.uint64(21) | x
    return key


def unpack(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Voxels (n, 3) of packed coordinates; the inverse of `pack`."""
    low = np.uint64((1 << 21) - 1)
    parts = (keys >> np.uint64(42), keys >> np.uint64(21) & low, keys & low)
    return np.stack(parts, axis=1).astype(np.int64)


def voxels_of(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The voxels (n, 3) that ids name: a point inside each segment."""
    voxels: npt.NDArray[np.int64] = unpack(ids - np.uint64(1))
    return voxels


def voxels_at(linear: Array, shape: Triple, offset: Triple) -> Array:
    """Global voxels (n, 3) of linear indices into a block."""
    voxels: Array = np.stack(np.unravel_index(linear, shape), axis=1) + np.array(offset)
    return voxels


def global_faces(codes: Array, shape: Triple, offset: Triple) -> npt.NDArray[np.uint64]:
    """Faces from block-local codes ``4 * linear index of the upper voxel + axis``."""
    faces: npt.NDArray[np.uint64] = pack(voxels_at(codes >> 2, shape, offset)) << np.uint64(2)
    return faces | (codes & 3).astype(np.uint64)


def open_sides(box: Box, roi: Box) -> npt.NDArray[np.bool_]:
    """Whether the region of interest goes on beyond the (lower, upper) sides of each axis."""
    return np.stack((np.array(box.offset) > roi.offset, np.array(box.end) < roi.end))


def touches_open_side(
    lower: Array, upper: Array, begin: Triple, end: Triple, is_open: Array
) -> npt.NDArray[np.bool_]:
    """Which bounding boxes touch a side of a region that is open.

    Parameters
    ----------
    lower, upper : ndarray of int, (n, 3)
        Bounding boxes in voxels, the upper side excluded.
    begin, end : tuple of int
        The region.
    is_open : ndarray of bool, (2, 3)
        From `open_sides`.
    """
    touching = ((lower == np.array(begin)) & is_open[0]) | ((upper == np.array(end)) & is_open[1])
    result: npt.NDArray[np.bool_] = touching.any(axis=1)
    return result


def tree_rows(merges: Columns) -> Columns:
    """Rows (a, b, phase, numerator, denominator) of the merge tree.

    `a` and `b` are the ids of the two voxels at the face that decided the
    merge: points inside the two merged sets, whatever their ids were at the
    time. The score is ``numerator / (255 * denominator)``.
    """
    key, axis = merges["face"] >> np.uint64(2), merges["face"] & np.uint64(3)
    step = np.array([1 << 42, 1 << 21, 1], np.uint64)[axis.astype(np.int64)]
    return {
        "a": key - step + np.uint64(1),
        "b": key + np.uint64(1),
        "phase": merges["phase"],
        "numerator": merges["numerator"],
        "denominator": merges["denominator"],
    }
