"""The boundary between objects: where it is, and as a target of its own."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from pipeline.geometry import Triple
from tasks.parts import Decoding, Labels, Target, Taught, VoxelSize

BACKGROUND = -1
"""Label of what is known to belong to no object, such as a membrane that is annotated."""

_FAR = 2.0
"""Voxels longer than this many of the shortest ones are further apart than a membrane is thick."""


def border(labels: Labels, voxel_size: VoxelSize) -> npt.NDArray[np.bool_]:
    """Background, and voxels of an object that share a face with another object.

    Annotations without a gap at membranes get one by it, two voxels wide.
    Unknown voxels make no border. Nor do faces along an axis whose voxels are
    more than twice as long as the shortest: in sections of 40 nm nearly every
    voxel of a thin neurite lies above another one.

    Parameters
    ----------
    labels : ndarray of int32
        (z, y, x).
    voxel_size : tuple of float
        nm, or any other unit.
    """
    found: npt.NDArray[np.bool_] = labels == BACKGROUND
    for axis in range(3):
        if voxel_size[axis] > _FAR * min(voxel_size):
            continue
        lower = tuple(slice(None, -1) if i == axis else slice(None) for i in range(3))
        upper = tuple(slice(1, None) if i == axis else slice(None) for i in range(3))
        a, b = labels[lower], labels[upper]
        differ = (a != b) & (a > 0) & (b > 0)
        found[lower] |= differ
        found[upper] |= differ
    return found


def core(array: npt.NDArray[Any], reach: Triple) -> npt.NDArray[Any]:
    """`array` (z, y, x) without `reach` voxels on each side."""
    return array[tuple(slice(r, n - r) for r, n in zip(reach, array.shape, strict=True))]


class Boundary(Target):
    """The inside of objects, as against the border between them, one channel."""

    kind: Literal["boundary"] = Field("boundary", description="What the head predicts.")

    @property
    def channels(self) -> int:
        """Number of channels."""
        return 1

    def reach(self, voxel_size: VoxelSize) -> Triple:  # noqa: ARG002
        """Voxels of labels that are needed on each side of a core: the neighbours."""
        return (1, 1, 1)

    def teach(self, labels: Labels, reach: Triple, voxel_size: VoxelSize) -> Taught:
        """1 inside an object, 0 at its border and in the background; bool (1, z, y, x)."""
        target = ~core(border(labels, voxel_size), reach)
        return Taught(target[None], core(labels != 0, reach)[None])

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of lying inside an object."""
        return torch.sigmoid(logits.float())

    def attributes(self) -> dict[str, Any]:
        """What a reader of the written array must know."""
        return {"quantity": "probability of the inside of objects", "scale": 1 / 255}

    @property
    def decoding(self) -> Decoding:
        """It is large inside objects."""
        return "heights"

    def default_losses(self) -> list[dict[str, Any]]:
        """Balanced cross-entropy."""
        return [{"kind": "bce"}]
