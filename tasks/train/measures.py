"""Measures of labels: how thick objects are, and what is between them."""

from __future__ import annotations

import edt
import numpy as np

from tasks.parts import Array, Labels, VoxelSize

MEMBRANE = 50.0
"""nm from an object that the unlabelled voxels of a membrane are away at most."""


def compacted(ids: Array) -> tuple[Labels, int]:
    """Labels as 1…n, and n."""
    values, inverse = np.unique(ids, return_inverse=True)
    numbers = np.cumsum(values > 0).astype(np.int32)
    numbers[values <= 0] = 0
    return numbers[inverse].reshape(ids.shape), int(numbers.max(initial=0))


def calibre(objects: Labels, n: int, voxel_size: VoxelSize) -> float:
    """Diameter of the largest ball in an object, nm; the median over labelled voxels."""
    distance = edt.edt(objects, anisotropy=voxel_size, black_border=False, parallel=1)
    largest = np.zeros(n + 1, np.float32)
    np.maximum.at(largest, objects.ravel(), distance.ravel())
    # An object that fills the sample has no border, and an infinite distance to it.
    longest = max(s * d for s, d in zip(objects.shape, voxel_size, strict=True))
    calibres = np.minimum(2 * largest[1:], longest)
    # Over voxels, so that specks, of which there are many, count by their size.
    counts = np.bincount(objects.ravel(), minlength=n + 1)[1:]
    order = np.argsort(calibres)
    middle = np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)
    return float(calibres[order[middle]])


def touching(objects: Labels) -> float:
    """Of the faces of objects in the plane of the sections, the share to another object."""
    both = alone = 0
    for axis in (1, 2):
        lower = tuple(slice(None, -1) if i == axis else slice(None) for i in range(3))
        upper = tuple(slice(1, None) if i == axis else slice(None) for i in range(3))
        a, b = objects[lower], objects[upper]
        differ = a != b
        meeting = int((differ & (a != 0) & (b != 0)).sum())
        both += meeting
        alone += int(differ.sum()) - meeting
    return both / max(1, both + alone)


def thin(objects: Labels, voxel_size: VoxelSize) -> float:
    """Share of the unlabelled voxels within `MEMBRANE`, or two voxels, of an object."""
    unlabelled = objects == 0
    if not unlabelled.any():
        return 0.0
    distance = edt.edt(unlabelled, anisotropy=voxel_size, black_border=False, parallel=1)
    near = max(MEMBRANE, 2 * min(voxel_size))
    return float((distance[unlabelled] <= near).mean())
