"""What a network is taught to say, and how that is written as uint8.

An affinity is a probability: sigmoid of the logit, 255 for 1. A distance is
squashed, ``tanh(d / scale)``, so that what lies far from any border is not a
matter of precision, and mapped from −1…1 to 0…255.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.geometry import Triple
from tasks.networks.architecture import Part

NEAREST: list[Triple] = [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]
"""Offsets of the affinities that a run segments, in the order of their channels."""


class AffinityHead(Part):
    """Affinities between a voxel v and v + offset, one channel per offset."""

    kind: Literal["affinities"] = Field("affinities", description="What the head predicts.")
    offsets: list[Triple] = Field(min_length=1, description="Voxels, z y x, one per channel.")
    erode: bool = Field(
        False,
        description="Whether voxels that touch another object were taught to have no affinity.",
    )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.offsets)

    def quantise(self, logits: Tensor) -> Tensor:
        """Logits of any float dtype as uint8 of the same shape."""
        return torch.sigmoid(logits.float()).mul_(255.0).round_().to(torch.uint8)

    def attributes(self) -> dict[str, Any]:
        """What a reader of the written array must know."""
        return {"offsets": [list(offset) for offset in self.offsets], "scale": 1 / 255}


class DistanceHead(Part):
    """Signed distance to the nearest border, positive inside an object, squashed by tanh."""

    kind: Literal["distances"] = Field("distances", description="What the head predicts.")
    scale: Annotated[float, Field(gt=0.0)] = Field(
        description="nm at which the squashed distance is tanh(1) = 0.76."
    )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return 1

    def quantise(self, logits: Tensor) -> Tensor:
        """Logits of any float dtype as uint8 of the same shape."""
        return torch.tanh(logits.float()).add_(1.0).mul_(127.5).round_().to(torch.uint8)

    def attributes(self) -> dict[str, Any]:
        """What a reader of the written array must know."""
        return {
            "quantity": "signed distance, nm = scale * atanh(value / 127.5 - 1)",
            "scale": self.scale,
        }


Head = Annotated[AffinityHead | DistanceHead, Field(discriminator="kind")]
