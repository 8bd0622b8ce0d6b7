"""What a U-Net is made of, and the exact arithmetic of its context.

For a core of the output whose first voxel and shape are multiples of the
`stride`, the network needs the same box of the input grown by `context` on
every side. With valid convolutions it reads not a voxel more; with padded ones
the context is rounded up to whole strides, and what the padding may have
touched is cut off. Kernels are odd, so every margin is the same before and
after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from pipeline.geometry import Triple, triple
from tasks.networks import memory, unet
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
    """A 3-D U-Net, anisotropic where its kernels are: (1, 3, 3) makes a level 2-D.

    Neither group nor instance normalisation is offered. Both divide by the
    standard deviation of the whole tile, so that a voxel's prediction would
    depend on what else is in the tile, however far away; the tiles would show.
    Batch normalisation divides by numbers that are fixed after training.

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
    residual: bool = Field(
        False,
        description="Whether the first convolution of a chain is added to the last one (Lee et "
        "al. 2017, arXiv:1706.00120).",
    )
    skips: Literal["sum", "concat"] = Field(
        "sum", description="How a level's features join those from below; sum costs half."
    )
    upsampling: Literal["nearest", "trilinear", "transposed"] = Field(
        "nearest", description="transposed is learnt, with kernels as large as the factor."
    )
    norm: Literal["none", "batch"] = Field(
        "none",
        description="none standardises weights instead; batch is folded into the convolutions "
        "for prediction.",
    )
    padding: Literal["valid", "same"] = Field(
        "valid",
        description="same pads by zeros in the network; its context is at least that of valid.",
    )
    deep_heads: Annotated[int, Field(ge=0)] = Field(
        0, description="Deeper levels that have heads in training, for deep supervision."
    )
    checkpointing: bool = Field(
        False,
        description="Whether training computes activations again on the way back, a third slower, "
        "in place of keeping all of them.",
    )

    @field_validator("norm", mode="before")
    @classmethod
    def _fixed_norm(cls, norm: object) -> object:
        if norm in ("group", "instance", "layer"):
            raise ValueError(
                f"norm {norm!r} is not offered: it divides by the standard deviation of the whole "
                "tile, so a voxel's prediction would depend on the tile around it; use none "
                "(standardised weights) or batch (folded for prediction)"
            )
        return norm

    @model_validator(mode="after")
    def _odd(self) -> Self:
        kernels = [k for level in self.levels for k in (*level.down, *level.up)]
        for kernel in (*kernels, *self.bottom.kernels):
            if any(size % 2 == 0 for size in kernel):
                raise ValueError(f"kernel {kernel} is even on an axis; only odd sizes are centred")
        if self.deep_heads > len(self.levels):
            raise ValueError(
                f"deep_heads: {self.deep_heads} is more than the {len(self.levels)} levels below "
                "the finest"
            )
        if self.checkpointing and self.norm == "batch":
            raise ValueError(
                "checkpointing runs every convolution twice, and batch norm would count its "
                "statistics twice; use norm: none"
            )
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
        radius = self.margins()[0].before
        if self.padding == "valid":
            return radius
        # Tiles must begin where pooling begins.
        return triple(-(-r // s) * s for r, s in zip(radius, self.stride, strict=True))

    @property
    def padded(self) -> bool:
        """Whether it pads, so that it has something to say up to a tile's border."""
        return self.padding == "same"

    def margins(self) -> list[Margins]:
        """The margins that a core depends on, of every level but the coarsest, finest first."""
        core: Triple = (0, 0, 0)
        joined, cores = [], []
        for level in self.levels:
            joined.append(_add(core, radius(level.up)))
            core = self._below(joined[-1], level.factor)
            cores.append(core)
        found = []
        before = _add(core, radius(self.bottom.kernels))
        for level, needed, inner in reversed(list(zip(self.levels, joined, cores, strict=True))):
            skip = _scale(before, level.factor)
            before = _add(skip, radius(level.down))
            found.append(Margins(before, skip, needed, _scale(inner, level.factor)))
        return found[::-1]

    def _below(self, margin: Triple, factor: Triple) -> Triple:
        """Voxels of the next level that `margin` voxels beyond the core are upsampled from."""
        # Voxel i of trilinear upsampling lies at (i + 1/2) / factor - 1/2 and reads both sides.
        if self.upsampling == "trilinear":
            return triple(
                -(-(2 * m - 1 + f) // (2 * f)) for m, f in zip(margin, factor, strict=True)
            )
        return triple(-(-m // f) for m, f in zip(margin, factor, strict=True))

    def build(self, channels: Mapping[str, int], *, plain: bool) -> nn.Module:
        """The U-Net with these heads: `plain` for prediction, else for training."""
        return unet.Unet(self, channels, plain=plain)

    def folded(self, trained: nn.Module) -> dict[str, Tensor]:
        """Weights with which the plain U-Net computes what `trained` does, float32."""
        return unet.folded(trained)

    def activation_values(self, core: Triple) -> int:
        """The largest number of values alive at once, an upper bound."""
        return memory.activation_values(self, core)


def radius(kernels: list[Kernel]) -> Triple:
    """Voxels that a chain of valid convolutions takes off each side."""
    return triple(sum(kernel[axis] // 2 for kernel in kernels) for axis in range(3))


def _add(a: Triple, b: Triple) -> Triple:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _scale(a: Triple, b: Triple) -> Triple:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]
