"""Defects of serial sections, along z: raw data of a section or several are damaged.

Labels stay, since the tissue is what it was, but for two defects: of all
sections after a misalignment, and of the two sides of a tear, raw data and
labels move alike.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from tasks.augmentations.displaced import Shifted, Torn
from tasks.parts import Augmentation, Crop, Floats, VoxelSize

__all__ = [
    "Charging",
    "Duplicated",
    "LowContrast",
    "Missing",
    "OutOfFocus",
    "Shifted",
    "Torn",
]

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Strength = Annotated[float, Field(gt=0.0)]


class Section(Augmentation):
    """A defect of one section's raw data, or of as many in a row."""

    probability: Share = Field(0.05, description="Share of crops that are changed.")
    most: Annotated[int, Field(ge=1)] = Field(
        1, description="Largest number of sections in a row; uniform from 1."
    )

    def apply(self, crop: Crop, rng: np.random.Generator) -> Crop:
        """The crop with damaged sections, at the configured probability."""
        if rng.random() >= self.probability:
            return crop
        raw = crop.raw.copy()
        count = min(len(raw), int(rng.integers(1, self.most + 1)))
        first = int(rng.integers(len(raw) - count + 1))
        self.damage(raw, first, first + count, crop.voxel_size, rng)
        return dataclasses.replace(crop, raw=raw)

    @abstractmethod
    def damage(
        self, raw: Floats, begin: int, end: int, voxel_size: VoxelSize, rng: np.random.Generator
    ) -> None:
        """Change the sections `begin` to `end`, not including, in place."""


class Missing(Section):
    """A section is lost: all of it has one value, black as a rule."""

    kind: Literal["missing-section"] = Field("missing-section", description="The augmentation.")
    darkest: float = Field(-4.0, description="Lowest value, in standard deviations.")
    brightest: float = Field(0.0, description="Highest value, in standard deviations.")

    def damage(
        self,
        raw: Floats,
        begin: int,
        end: int,
        voxel_size: VoxelSize,  # noqa: ARG002
        rng: np.random.Generator,
    ) -> None:
        """Fill the sections."""
        low, high = sorted((self.darkest, self.brightest))
        raw[begin:end] = rng.uniform(low, high)


class Duplicated(Section):
    """A section was lost and the one beside it is shown in its place."""

    kind: Literal["duplicated-section"] = Field(
        "duplicated-section", description="The augmentation."
    )

    def damage(
        self,
        raw: Floats,
        begin: int,
        end: int,
        voxel_size: VoxelSize,  # noqa: ARG002
        rng: np.random.Generator,  # noqa: ARG002
    ) -> None:
        """Copy the section before, or after where there is none before."""
        raw[begin:end] = raw[begin - 1] if begin > 0 else raw[min(end, len(raw) - 1)]


class LowContrast(Section):
    """A section was stained or exposed badly: its contrast is low."""

    kind: Literal["low-contrast-section"] = Field(
        "low-contrast-section", description="The augmentation."
    )
    factor: Annotated[float, Field(gt=0.0, le=0.6)] = Field(
        0.2, description="Lowest factor of contrast; uniform from this to 0.6."
    )

    def damage(
        self,
        raw: Floats,
        begin: int,
        end: int,
        voxel_size: VoxelSize,  # noqa: ARG002
        rng: np.random.Generator,
    ) -> None:
        """Draw intensities together, around each section's mean."""
        mean = raw[begin:end].mean(axis=(1, 2), keepdims=True)
        factor = np.float32(rng.uniform(self.factor, 0.6))
        raw[begin:end] = mean + factor * (raw[begin:end] - mean)


class OutOfFocus(Section):
    """A section was imaged out of focus: it is blurred in its plane."""

    kind: Literal["out-of-focus-section"] = Field(
        "out-of-focus-section", description="The augmentation."
    )
    sigma: Strength = Field(20.0, description="Largest width in nm; uniform from half of it.")

    def damage(
        self,
        raw: Floats,
        begin: int,
        end: int,
        voxel_size: VoxelSize,
        rng: np.random.Generator,
    ) -> None:
        """Blur each section by itself."""
        width = self.sigma * rng.uniform(0.5, 1)
        sigmas = (0, width / voxel_size[1], width / voxel_size[2])
        raw[begin:end] = ndimage.gaussian_filter(raw[begin:end], sigmas, truncate=3.0)


class Charging(Section):
    """The beam charges the surface: stripes along x that fade out, bright or dark."""

    kind: Literal["charging"] = Field("charging", description="The augmentation.")
    strength: Strength = Field(2.0, description="Largest change, in standard deviations.")
    stripes: Annotated[int, Field(ge=1)] = Field(6, description="Largest number per section.")
    width: Strength = Field(60.0, description="Largest width of a stripe, nm.")
    length: Strength = Field(1000.0, description="Length after which it fades to a third, nm.")

    def damage(
        self,
        raw: Floats,
        begin: int,
        end: int,
        voxel_size: VoxelSize,
        rng: np.random.Generator,
    ) -> None:
        """Add stripes to each section."""
        _, n_y, n_x = raw.shape
        x = np.arange(n_x) * voxel_size[2]
        for section in raw[begin:end]:
            for _ in range(rng.integers(1, self.stripes + 1)):
                row = rng.integers(n_y)
                rows = slice(row, row + 1 + int(rng.uniform(0, self.width) / voxel_size[1]))
                behind = x - rng.uniform(-self.length, x[-1])
                fading = np.where(behind >= 0, np.exp(-np.maximum(behind, 0) / self.length), 0)
                section[rows] += (rng.uniform(-self.strength, self.strength) * fading).astype("f4")
