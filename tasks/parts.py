"""The four kinds of parts that a model is made of and trained with.

A part is a small pydantic class that is chosen in YAML by its `kind`:
*networks*, *targets* (what a head is taught, and how its prediction is written
and decoded), *losses* and *augmentations*. `tasks.registry` finds them. The
first line of its docstring is what `raphe models` says of a part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.geometry import Triple, triple

VoxelSize = tuple[float, float, float]
Decoding = Literal["affinities", "heights", "none"]
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Array = npt.NDArray[Any]


class Part(BaseModel):
    """Base of everything that is read from ``model.yaml`` or ``train.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Module(Protocol):
    """What a network builds: a torch module with a 1×1×1 convolution per head."""

    heads: nn.ModuleDict
    crop: Triple
    """What `features` cuts off each side after a network that pads; else 0."""

    def features(self, x: Tensor) -> Tensor:
        """The last features (n, c, z, y, x) of the core that `x` (n, 1, …) holds with context."""

    def deep(self, x: Tensor) -> list[dict[str, Tensor]]:
        """Logits of every head on the core, finest first, then those of deeper levels.

        Those of deeper levels are upsampled to the core, so that every target fits them.
        """


class Network(Part, ABC):
    """A network by its structure alone.

    It says what a tile needs, so that a prediction does not depend on tiles:
    for a core whose first voxel and shape are multiples of `stride` it reads
    the same box grown by `context` on every side, and nothing else.
    """

    kind: str

    @property
    @abstractmethod
    def stride(self) -> Triple:
        """Cores are multiples of it, (z, y, x)."""

    @property
    @abstractmethod
    def context(self) -> Triple:
        """Voxels of input that a core needs on each side, (z, y, x)."""

    @property
    def padded(self) -> bool:
        """Whether it pads, so that it has something to say up to a tile's border."""
        return False

    @abstractmethod
    def build(self, channels: Mapping[str, int], *, plain: bool) -> nn.Module:
        """The `Module` with these heads: `plain` for prediction, else for training."""

    @abstractmethod
    def folded(self, trained: nn.Module) -> dict[str, Tensor]:
        """Weights with which the plain module computes what `trained` does, float32."""

    @abstractmethod
    def activation_values(self, core: Triple) -> int:
        """The largest number of values alive at once while a core is predicted."""

    def check_core(self, core: Triple) -> None:
        """Raise unless `core` is a multiple of the stride on every axis.

        Raises
        ------
        ModelError
            With the nearest shape that would do.
        """
        if any(c <= 0 or c % s for c, s in zip(core, self.stride, strict=True)):
            near = triple(max(1, -(-c // s)) * s for c, s in zip(core, self.stride, strict=True))
            raise ModelError(
                f"a tile's core {core} is not a multiple of the network's stride {self.stride}; "
                f"{near} would be"
            )

    def input_shape(self, core: Triple) -> Triple:
        """Shape of the input that gives an output of shape `core`."""
        self.check_core(core)
        return triple(c + 2 * m for c, m in zip(core, self.context, strict=True))


@dataclass(frozen=True)
class Taught:
    """What a target makes of labels: (c, z, y, x) of the crop's core each."""

    target: Array
    known: npt.NDArray[np.bool_]


class Target(Part, ABC):
    """What a head is taught, how it is written as uint8, and what it is decoded by."""

    kind: str

    @property
    @abstractmethod
    def channels(self) -> int:
        """Number of channels."""

    @property
    def pairs(self) -> list[Triple]:
        """For each channel the offset to the other voxel of the pair that it is about.

        Empty if channels are about single voxels: they turn with the voxels alone.
        """
        return []

    @abstractmethod
    def reach(self, voxel_size: VoxelSize) -> Triple:
        """Voxels of labels that are needed on each side of a core."""

    @abstractmethod
    def teach(self, labels: Labels, reach: Triple, voxel_size: VoxelSize) -> Taught:
        """Targets of the core that `labels`, grown by at least `reach`, hold; 0 is unknown."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits of any float dtype as float32 in 0…1: what is averaged, then quantised."""

    def quantise(self, logits: Tensor) -> Tensor:
        """Logits as uint8 of the same shape, 255 for 1."""
        return quantised(self.probabilities(logits))

    @abstractmethod
    def attributes(self) -> dict[str, Any]:
        """What a reader of the written array must know."""

    @property
    @abstractmethod
    def decoding(self) -> Decoding:
        """What its prediction is to a decoder.

        ``affinities`` of nearest neighbours are agglomerated; of ``heights``, one
        channel that is large inside objects, an edge's affinity is the lower end;
        of ``none`` no labels are made.
        """

    @abstractmethod
    def default_losses(self) -> list[dict[str, Any]]:
        """What the head is trained with if the configuration names no losses."""


def quantised(probabilities: Tensor) -> Tensor:
    """0…1 as uint8."""
    return probabilities.mul(255.0).round_().to(torch.uint8)


@dataclass(frozen=True)
class Lesson:
    """What a loss compares logits with; tensors of one batch.

    Attributes
    ----------
    target, known : Tensor
        (n, c, z, y, x): what `Target.teach` gave.
    labels : Tensor
        Objects, (n, z, y, x) of int32, of the core; 0 is unknown.
    head : Target
        What is taught.
    """

    target: Tensor
    known: Tensor
    labels: Tensor
    head: Target


class Loss(Part, ABC):
    """A scalar that training makes small."""

    kind: str
    weight: Annotated[float, Field(gt=0.0)] = Field(1.0, description="Factor in the sum.")

    @abstractmethod
    def __call__(self, logits: Tensor, lesson: Lesson) -> Tensor:
        """The loss, unweighted, of logits (n, c, z, y, x) of any float dtype."""


@dataclass(frozen=True)
class Crop:
    """Raw data and labels around one core, (z, y, x) each, with a common centre.

    Attributes
    ----------
    raw : ndarray of float32
        Normalised.
    labels : ndarray of int32
        Objects; 0 is unknown. Never interpolated.
    voxel_size : tuple of float
        nm.
    """

    raw: Floats
    labels: Labels
    voxel_size: VoxelSize


class Augmentation(Part, ABC):
    """A random change of a crop that leaves its labels true."""

    kind: str
    probability: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="Share of crops that are changed."
    )

    def margin(self, voxel_size: VoxelSize) -> Triple:  # noqa: ARG002
        """Voxels that `apply` takes off raw data and labels on each side, changed or not."""
        return (0, 0, 0)

    @abstractmethod
    def apply(self, crop: Crop, rng: np.random.Generator) -> Crop:
        """The changed crop, smaller by the margin on each side; `crop` itself is left alone."""
