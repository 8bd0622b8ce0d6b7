"""Signed distance to the boundary, clipped and squashed (Heinrich et al. 2018).

"Synaptic cleft segmentation in non-isotropic volume electron microscopy of the
complete Drosophila brain", MICCAI 2018: a network that must say how far it is
from a border, on both sides of it, learns more of shape than one that must
only say whether it is there. Squashing by tanh makes what is far away no
matter of precision.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import edt
import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from pipeline.geometry import Triple, triple
from tasks.parts import Decoding, Floats, Labels, Target, Taught, VoxelSize
from tasks.targets.boundary import border, core

Length = Annotated[float, Field(gt=0.0)]

SATURATED = 2.5
"""Scales at which a distance is as good as infinite: tanh(2.5) is 0.987."""

FARTHEST = 64
"""Voxels that labels are read beyond a core at most."""


class Distances(Target):
    """Signed distance to the border, nm, clipped and squashed by tanh; positive inside objects."""

    kind: Literal["distances"] = Field("distances", description="What the head predicts.")
    scale: Length = Field(description="nm at which the squashed distance is tanh(1) = 0.76.")
    clip: Length | None = Field(
        None, description="nm beyond which distances are all the same; 2.5 scales if null."
    )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return 1

    def limit(self, voxel_size: VoxelSize) -> float:
        """Where distances are clipped, in nm, so that a core needs finitely many voxels."""
        wanted = SATURATED * self.scale if self.clip is None else self.clip
        return min(wanted, FARTHEST * min(voxel_size))

    def reach(self, voxel_size: VoxelSize) -> Triple:
        """Voxels of labels that are needed on each side of a core: those within the limit."""
        limit = self.limit(voxel_size)
        # One more: a voxel's neighbours say whether it is at a border.
        return triple(math.ceil(limit / size) + 1 for size in voxel_size)

    def teach(self, labels: Labels, reach: Triple, voxel_size: VoxelSize) -> Taught:
        """(1 + tanh(distance / scale)) / 2, float32 (1, z, y, x): what `probabilities` shall be."""
        distance = signed_distance(border(labels, voxel_size), voxel_size)
        clipped = np.clip(core(distance, reach), -self.limit(voxel_size), self.limit(voxel_size))
        target = (np.tanh(clipped / np.float32(self.scale)) + 1) / 2
        return Taught(target[None], core(labels != 0, reach)[None])

    def probabilities(self, logits: Tensor) -> Tensor:
        """(1 + tanh) / 2: 0.5 at the border, 1 far inside."""
        return torch.tanh(logits.float()).add(1.0).div(2.0)

    def attributes(self) -> dict[str, Any]:
        """What a reader of the written array must know."""
        return {
            "quantity": "signed distance, nm = scale * atanh(value / 127.5 - 1)",
            "scale": self.scale,
        }

    @property
    def decoding(self) -> Decoding:
        """It is large inside objects."""
        return "heights"

    def default_losses(self) -> list[dict[str, Any]]:
        """Mean squared error."""
        return [{"kind": "mse"}]


def signed_distance(is_border: npt.NDArray[np.bool_], voxel_size: VoxelSize) -> Floats:
    """Distance in nm to the nearest border voxel, negative inside the border.

    Infinite where no border is in sight.
    """
    if not is_border.any():
        return np.full(is_border.shape, np.inf, np.float32)
    outside = edt.edt(~is_border, anisotropy=voxel_size, black_border=False, parallel=1)
    inside = edt.edt(is_border, anisotropy=voxel_size, black_border=False, parallel=1)
    return np.asarray(outside - inside, dtype=np.float32)
