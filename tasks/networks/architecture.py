"""What a U-Net is made of, and the exact arithmetic of its context.

All convolutions are valid: nothing is padded inside the network. For a core
of the output whose first voxel and shape are multiples of the `stride`, the
network needs the same box of the input grown by `context` on every side, not
a voxel more. Kernels are odd, so every margin is the same before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.geometry import Triple, triple
from tasks.networks import unet
from tasks.parts import Network, Part

Factor = Annotated[int, Field(ge=1)]
Kernel = tuple[Factor, Factor, Factor]
Channels = Annotated[int, Field(gt=0)]


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


class UnetArchitecture(Network):
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

    kind: Literal["unet"] = "unet"
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

    def build(self, channels: Mapping[str, int], *, plain: bool) -> nn.Module:
        """The U-Net with these heads: `plain` for prediction, else for training."""
        return unet.Unet(self, channels, plain=plain)

    def folded(self, trained: nn.Module) -> dict[str, Tensor]:
        """Weights with which the plain U-Net computes what `trained` does, float32."""
        return unet.folded(trained)

    def activation_values(self, core: Triple) -> int:
        """The largest number of values alive at once, an upper bound.

        While a convolution runs, its input and output and all skipped features
        of the finer levels are alive.
        """
        shape, kept, inputs = core, 0, 1
        peak = 0
        for level, margins in zip(self.levels, self.margins(), strict=True):
            entering = _voxels(shape, margins.before)
            peak = max(peak, kept + (inputs + level.channels) * entering)
            if len(level.down) > 1:
                peak = max(peak, kept + 2 * level.channels * entering)
            kept += level.channels * _voxels(shape, margins.skip)
            shape = triple(s // f for s, f in zip(shape, level.factor, strict=True))
            inputs = level.channels
        deepest = zip(self.margins()[-1].skip, self.levels[-1].factor, strict=True)
        margin = triple(m // f for m, f in deepest)
        peak = max(peak, kept + 2 * self.bottom.channels * _voxels(shape, margin))
        # On the way up the skipped features, the upsampled ones and their sum are alive.
        joined = self.levels[0].channels * _voxels(core, self.margins()[0].joined)
        return max(peak, kept + 3 * joined)


def radius(kernels: list[Kernel]) -> Triple:
    """Voxels that a chain of valid convolutions takes off each side."""
    return triple(sum(kernel[axis] // 2 for kernel in kernels) for axis in range(3))


def _voxels(shape: Triple, margin: Triple) -> int:
    z, y, x = (s + 2 * m for s, m in zip(shape, margin, strict=True))
    return z * y * x


def _add(a: Triple, b: Triple) -> Triple:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _scale(a: Triple, b: Triple) -> Triple:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]
