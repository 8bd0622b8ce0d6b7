"""Changes of intensities alone: contrast, brightness, gamma, noise, blur."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from tasks.parts import Augmentation, Crop, Floats, VoxelSize

Strength = Annotated[float, Field(gt=0.0)]

HALF_RANGE = 4.0
"""Standard deviations around the mean that count as the range of intensities."""


class Intensity(Augmentation):
    """An augmentation that changes raw data, voxel by voxel or nearly so."""

    def apply(self, crop: Crop, rng: np.random.Generator) -> Crop:
        """The crop with changed raw data, at the configured probability."""
        if rng.random() >= self.probability:
            return crop
        changed = self.change(crop.raw, crop.voxel_size, rng)
        return dataclasses.replace(crop, raw=changed)

    @abstractmethod
    def change(self, raw: Floats, voxel_size: VoxelSize, rng: np.random.Generator) -> Floats:
        """New raw data of the same shape; `raw` itself is left alone."""


class Contrast(Intensity):
    """Intensities are stretched or compressed around the mean."""

    kind: Literal["contrast"] = Field("contrast", description="The augmentation.")
    strength: Strength = Field(0.2, description="Factor exp(u), u uniform in ± this.")

    def change(self, raw: Floats, voxel_size: VoxelSize, rng: np.random.Generator) -> Floats:  # noqa: ARG002
        """Raw data times a factor."""
        return raw * np.float32(np.exp(self.strength * rng.uniform(-1, 1)))


class Brightness(Intensity):
    """All intensities are shifted."""

    kind: Literal["brightness"] = Field("brightness", description="The augmentation.")
    strength: Strength = Field(0.3, description="Shift in ± this, in standard deviations.")

    def change(self, raw: Floats, voxel_size: VoxelSize, rng: np.random.Generator) -> Floats:  # noqa: ARG002
        """Raw data plus a shift."""
        return raw + np.float32(self.strength * rng.uniform(-1, 1))


class Gamma(Intensity):
    """Dark intensities are spread and bright ones compressed, or the other way round."""

    kind: Literal["gamma"] = Field("gamma", description="The augmentation.")
    strength: Strength = Field(0.2, description="Exponent exp(u), u uniform in ± this.")

    def change(self, raw: Floats, voxel_size: VoxelSize, rng: np.random.Generator) -> Floats:  # noqa: ARG002
        """Raw data, from four standard deviations below to four above the mean, to a power."""
        exponent = np.float32(np.exp(self.strength * rng.uniform(-1, 1)))
        unit = np.clip((raw + np.float32(HALF_RANGE)) / np.float32(2 * HALF_RANGE), 0, 1)
        changed: Floats = unit**exponent * np.float32(2 * HALF_RANGE) - np.float32(HALF_RANGE)
        return changed


class Noise(Intensity):
    """Independent Gaussian noise on every voxel."""

    kind: Literal["noise"] = Field("noise", description="The augmentation.")
    strength: Strength = Field(
        0.2, description="Largest standard deviation, in those of the data; uniform below."
    )

    def change(self, raw: Floats, voxel_size: VoxelSize, rng: np.random.Generator) -> Floats:  # noqa: ARG002
        """Raw data plus noise."""
        sigma = np.float32(self.strength * rng.uniform())
        return raw + sigma * rng.standard_normal(raw.shape, dtype=np.float32)


class Blur(Intensity):
    """Gaussian blur of the whole crop, as by an electron beam that is too wide."""

    kind: Literal["blur"] = Field("blur", description="The augmentation.")
    probability: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.2, description="Share of crops that are changed."
    )
    sigma: Strength = Field(10.0, description="Largest width in nm; uniform below.")

    def change(self, raw: Floats, voxel_size: VoxelSize, rng: np.random.Generator) -> Floats:
        """Raw data, smoothed along all axes by the same length."""
        width = self.sigma * rng.uniform()
        # Two widths hold 95 % of a Gaussian; the rest is not worth twice the time.
        blurred: Floats = ndimage.gaussian_filter(
            raw, [width / size for size in voxel_size], truncate=2.0
        )
        return blurred
