"""What a U-Net is made of, and the exact arithmetic of its context.

All convolutions are valid: nothing is padded inside the network. For a core
of the output whose first voxel and shape are multiples of the `stride`, the
network needs the same box of the input grown by `context` on every side, not
a voxel more. Kernels are odd, so every margin is the same before and after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import ModelError
from pipeline.geometry import Triple, triple

Factor = Annotated[int, Field(ge=1)]
Kernel = tuple[Factor, Factor, Factor]
Channels = Annotated[int, Field(gt=0)]


class Part(BaseModel):
    """Base of everything that is read from ``model.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Level(Part):
    """One resolution of the U-Net, above the coarsest."""

    channels: Channels = Field(description="Feature maps.")
    down: list[Kernel] = Field(min_length=1, description="Kernels on the way down, z y x.")
    up: list[Kernel] = Field(min_length=1, description="Kernels on the way up, z y x.")
    factor: Kernel = Field(description="Downsampling to the next level, z y x.")


class Bottom(Part):
    """The coarsest resolution of the U-Net."""

    channels: Channels = Field(description="Feature maps.")
    kernels: list[Kernel] = Field(min_length=1, description="Kernels, z y x.")


@dataclass(frozen=True)
class Margins:
    """Voxels of one level beyond the core, on each side, (z, y, x).

    Parameters
    ----------
    before : tuple of int
        Of what enters the level on its way down.
    skip : tuple of int
        Of what leaves it on its way down.
    joined : tuple of int
        Of what enters it on its way up.
    below : tuple of int
        Of what comes from the next level, in voxels of this level.
    """

    before: Triple
    skip: Triple
    joined: Triple
    below: Triple


class UnetArchitecture(Part):
    """A 3-D U-Net with valid convolutions, anisotropic where its kernels are.

    Examples
    --------
    >>> three = (3, 3, 3)
    >>> unet = UnetArchitecture(
    ...     levels=[Level(channels=8, down=[three], up=[three, three], factor=(1, 2, 2))],
    ...     bottom=Bottom(channels=16, kernels=[(1, 3, 3)]),
    ... )
    >>> unet.stride, unet.context, unet.input_shape((4, 8, 8))
    ((1, 2, 2), (3, 5, 5), (10, 18, 18))
    """

    levels: list[Level] = Field(min_length=1, description="Finest first, without the coarsest.")
    bottom: Bottom = Field(description="The coarsest resolution.")

    @model_validator(mode="after")
    def _odd(self) -> Self:
        kernels = [k for level in self.levels for k in (*level.down, *level.up)]
        for kernel in (*kernels, *self.bottom.kernels):
            if any(size % 2 == 0 for size in kernel):
                raise ValueError(f"kernel {kernel} is even on an axis; only odd sizes are centred")
        return self

    @property
    def stride(self) -> Triple:
        """Total downsampling: cores are multiples of it, (z, y, x)."""
        z, y, x = 1, 1, 1
        for level in self.levels:
            z, y, x = z * level.factor[0], y * level.factor[1], x * level.factor[2]
        return z, y, x

    @property
    def context(self) -> Triple:
        """Voxels of input that a core needs on each side, (z, y, x)."""
        return self.margins()[0].before

    def margins(self) -> list[Margins]:
        """The margins of every level, finest first, without the coarsest."""
        core: Triple = (0, 0, 0)
        joined, cores = [], []
        for level in self.levels:
            joined.append(_add(core, radius(level.up)))
            core = triple(-(-m // f) for m, f in zip(joined[-1], level.factor, strict=True))
            cores.append(core)
        found = []
        before = _add(core, radius(self.bottom.kernels))
        for level, needed, inner in reversed(list(zip(self.levels, joined, cores, strict=True))):
            skip = _scale(before, level.factor)
            before = _add(skip, radius(level.down))
            found.append(Margins(before, skip, needed, _scale(inner, level.factor)))
        return found[::-1]

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


def radius(kernels: list[Kernel]) -> Triple:
    """Voxels that a chain of valid convolutions takes off each side."""
    return triple(sum(kernel[axis] // 2 for kernel in kernels) for axis in range(3))


def _add(a: Triple, b: Triple) -> Triple:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _scale(a: Triple, b: Triple) -> Triple:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]
