"""What the heads are taught, from labels.

Label 0 and objects of fewer than `dust` voxels are unknown: an edge or voxel
that touches them has no weight. Ground truth without a gap at membranes gets
one, where a head asks for it, by counting voxels that touch another object as
border.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.geometry import Triple, triple

Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


def without_dust(labels: npt.NDArray[np.integer], dust: int) -> Labels:
    """Labels 1…n of the objects with at least `dust` voxels; the rest, and 0, become 0."""
    ids, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = (ids != 0) & (counts >= dust)
    new = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return new[inverse].reshape(labels.shape)


def border(labels: Labels) -> Mask:
    """Voxels of an object that share a face with another object (unknown ones aside)."""
    found = np.zeros(labels.shape, bool)
    for axis in range(3):
        lower = tuple(slice(None, -1) if i == axis else slice(None) for i in range(3))
        upper = tuple(slice(1, None) if i == axis else slice(None) for i in range(3))
        a, b = labels[lower], labels[upper]
        differ = (a != b) & (a != 0) & (b != 0)
        found[lower] |= differ
        found[upper] |= differ
    return found


def signed_distance(is_border: Mask, voxel_size: tuple[float, float, float]) -> Floats:
    """Distance in nm to the nearest border voxel, negative inside the border."""
    if not is_border.any():
        return np.full(is_border.shape, np.inf, np.float32)
    outside = ndimage.distance_transform_edt(~is_border, sampling=voxel_size)
    inside = ndimage.distance_transform_edt(is_border, sampling=voxel_size)
    return np.asarray(outside - inside, dtype=np.float32)


def affinities(
    labels: Labels, is_border: Mask, offsets: list[Triple], reach: Triple, *, erode: bool
) -> tuple[Mask, Mask]:
    """Targets and known edges of a crop.

    Parameters
    ----------
    labels, is_border : ndarray
        The crop's core grown by `reach` voxels on every side.
    offsets : list of tuple of int
        Channel c joins voxel v and v + offsets[c].
    reach : tuple of int
        At least the largest absolute offset on each axis.
    erode : bool
        Whether edges of border voxels count as absent.

    Returns
    -------
    target, known : ndarray of bool
        (c, z, y, x) of the core.
    """
    here = _shifted(labels, (0, 0, 0), reach)
    border_here = _shifted(is_border, (0, 0, 0), reach)
    targets, knowns = [], []
    for offset in offsets:
        there = _shifted(labels, offset, reach)
        target = here == there
        if erode:
            target = target & ~border_here & ~_shifted(is_border, offset, reach)
        targets.append(target)
        knowns.append((here != 0) & (there != 0))
    return np.stack(targets), np.stack(knowns)


def _shifted(array: npt.NDArray[np.generic], offset: Triple, reach: Triple) -> npt.NDArray[Any]:
    begin = triple(r + o for r, o in zip(reach, offset, strict=True))
    end = triple(s - r + o for s, r, o in zip(array.shape, reach, offset, strict=True))
    z, y, x = (slice(b, e) for b, e in zip(begin, end, strict=True))
    return array[z, y, x]
