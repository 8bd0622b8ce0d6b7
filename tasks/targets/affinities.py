"""Affinities: whether two voxels belong to one object."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from pipeline.geometry import Triple, triple
from tasks.parts import Decoding, Labels, Target, Taught, VoxelSize
from tasks.targets.boundary import border

NEAREST: list[Triple] = [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]
"""Offsets of the affinities that a run segments, in the order of their channels."""


class Affinities(Target):
    """Whether v and v + offset belong to one object, one channel per offset, near or far."""

    kind: Literal["affinities"] = Field("affinities", description="What the head predicts.")
    offsets: list[Triple] = Field(min_length=1, description="Voxels, z y x, one per channel.")
    erode: bool = Field(
        False,
        description="Whether voxels that touch another object are taught to have no affinity.",
    )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.offsets)

    @property
    def pairs(self) -> list[Triple]:
        """The offsets."""
        return self.offsets

    def reach(self, voxel_size: VoxelSize) -> Triple:  # noqa: ARG002
        """Voxels of labels that are needed on each side of a core: the longest offset.

        One more with `erode`, since a voxel's neighbours say whether it is at a border.
        """
        longest = (max(abs(offset[axis]) for offset in self.offsets) for axis in range(3))
        return triple(n + self.erode for n in longest)

    def teach(self, labels: Labels, reach: Triple, voxel_size: VoxelSize) -> Taught:
        """1 where both voxels are of one object, bool (c, z, y, x).

        An edge is known if both of its voxels are. Background has no affinity, not
        even to background.
        """
        joinable = labels > 0
        if self.erode:
            joinable &= ~border(labels, voxel_size)
        here, free = _shifted(labels, (0, 0, 0), reach), _shifted(joinable, (0, 0, 0), reach)
        targets, knowns = [], []
        for offset in self.offsets:
            there = _shifted(labels, offset, reach)
            targets.append((here == there) & free & _shifted(joinable, offset, reach))
            knowns.append((here != 0) & (there != 0))
        return Taught(np.stack(targets), np.stack(knowns))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of belonging to one object."""
        return torch.sigmoid(logits.float())

    def attributes(self) -> dict[str, Any]:
        """What a reader of the written array must know."""
        return {"offsets": [list(offset) for offset in self.offsets], "scale": 1 / 255}

    @property
    def decoding(self) -> Decoding:
        """Labels are made of those of nearest neighbours, in the order of `NEAREST`."""
        return "affinities" if self.offsets == NEAREST else "none"

    def default_losses(self) -> list[dict[str, Any]]:
        """Balanced cross-entropy."""
        return [{"kind": "bce"}]


def _shifted(array: npt.NDArray[Any], offset: Triple, reach: Triple) -> npt.NDArray[Any]:
    """The core inside `reach`, moved by `offset`."""
    begin = triple(r + o for r, o in zip(reach, offset, strict=True))
    end = triple(s - r + o for s, r, o in zip(array.shape, reach, offset, strict=True))
    z, y, x = (slice(b, e) for b, e in zip(begin, end, strict=True))
    return array[z, y, x]
