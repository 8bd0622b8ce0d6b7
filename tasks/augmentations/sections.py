"""Defects of serial sections, along z: raw data of a section or several are damaged.

Labels stay, since the tissue is what it was, but for two defects: of all
sections after a misalignment, and of the two sides of a tear, raw data and
labels move alike.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from pipeline.geometry import Triple, triple
from tasks.parts import Array, Augmentation, Crop, Floats, VoxelSize

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Strength = Annotated[float, Field(gt=0.0)]
Plane = tuple[slice, slice]


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


class Shifted(Augmentation):
    """A section slipped, or all from one on are misaligned, by whole voxels in the plane.

    Lee et al. 2017, "Superhuman accuracy on the SNEMI3D connectomics
    challenge": a slip moves raw data of one section and leaves its labels; a
    misalignment moves raw data and labels of all sections from one on.
    """

    kind: Literal["shifted-section"] = Field("shifted-section", description="The augmentation.")
    probability: Share = Field(0.1, description="Share of crops that are changed.")
    distance: Strength = Field(60.0, description="Largest shift along y and x, nm.")
    slips: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.5, description="Share of slips; the rest are misalignments."
    )

    def margin(self, voxel_size: VoxelSize) -> Triple:
        """Voxels that `apply` takes off: the largest shift, at least one voxel."""
        return _in_plane(self.distance, voxel_size)

    def apply(self, crop: Crop, rng: np.random.Generator) -> Crop:
        """The crop, with sections shifted."""
        margin = self.margin(crop.voxel_size)
        shift = triple(int(rng.integers(-m, m + 1)) for m in margin)
        section = int(rng.integers(len(crop.raw)))
        changed, slips = rng.random() < self.probability, rng.random() < self.slips
        raw, labels = _window(crop.raw, margin), _window(crop.labels, margin)
        if not changed:
            return dataclasses.replace(crop, raw=raw, labels=labels)
        raw = raw.copy()
        moved = slice(section, section + 1 if slips else None)
        raw[moved] = _window(crop.raw, margin, shift)[moved]
        if not slips:
            first = section - (len(crop.raw) - len(crop.labels)) // 2
            moved = slice(max(0, first), None)
            labels = labels.copy()
            labels[moved] = _window(crop.labels, margin, shift)[moved]
        return dataclasses.replace(crop, raw=raw, labels=labels)


class Torn(Augmentation):
    """A section is torn: a black crack, with the tissue on its two sides drawn apart."""

    kind: Literal["torn-section"] = Field("torn-section", description="The augmentation.")
    probability: Share = Field(0.05, description="Share of crops that are changed.")
    gap: Strength = Field(80.0, description="Largest width of the crack, nm; uniform below.")
    black: float = Field(-4.0, description="Value of the crack, in standard deviations.")

    def margin(self, voxel_size: VoxelSize) -> Triple:
        """Voxels that `apply` takes off: how far a side is drawn aside at most."""
        return _in_plane(self.gap / 2, voxel_size)

    def apply(self, crop: Crop, rng: np.random.Generator) -> Crop:
        """The crop, with one section torn; its labels in the crack are unknown."""
        margin = self.margin(crop.voxel_size)
        raw, labels = _window(crop.raw, margin), _window(crop.labels, margin)
        if rng.random() >= self.probability:
            return dataclasses.replace(crop, raw=raw, labels=labels)
        crack = self._crack(raw.shape, crop.voxel_size, rng)
        section = int(rng.integers(len(raw)))
        raw, labels = raw.copy(), labels.copy()
        raw[section] = crack.torn(crop.raw, section, margin, raw.shape, self.black)
        below = section - (len(raw) - len(labels)) // 2
        if 0 <= below < len(labels):
            labels[below] = crack.torn(crop.labels, below, margin, labels.shape, 0)
        return dataclasses.replace(crop, raw=raw, labels=labels)

    def _crack(
        self, shape: tuple[int, ...], voxel_size: VoxelSize, rng: np.random.Generator
    ) -> _Crack:
        """A wavy line at any angle through the middle half of the section."""
        angle = rng.uniform(0, 2 * math.pi)
        half = rng.uniform(0, self.gap) / 2
        sizes = (voxel_size[1], voxel_size[2])
        reach = min(n * size for n, size in zip(shape[1:], sizes, strict=True)) / 4
        return _Crack(
            normal=(math.sin(angle), math.cos(angle)),
            place=rng.uniform(-reach, reach),
            half=max(half, min(sizes) / 2),
            wave=(rng.uniform(0, 2 * self.gap), rng.uniform(1, 3) * 10 * self.gap),
            voxel_size=sizes,
        )


@dataclasses.dataclass(frozen=True)
class _Crack:
    """A crack in a section; lengths in nm, counted from the section's centre, (y, x)."""

    normal: tuple[float, float]
    place: float
    half: float
    wave: tuple[float, float]
    voxel_size: tuple[float, float]

    def torn(
        self, array: Array, section: int, margin: Triple, shape: tuple[int, ...], fill: float
    ) -> Array:
        """A section of `array`, (y, x) of `shape`, drawn apart; `fill` in the crack."""
        y, x = (
            (np.arange(n) - (n - 1) / 2) * size
            for n, size in zip(shape[1:], self.voxel_size, strict=True)
        )
        (up, right), (height, period) = self.normal, self.wave
        across = up * y[:, None] + right * x
        along = right * y[:, None] - up * x
        across = across - self.place - height * np.sin(2 * math.pi * along / period)
        # Whole voxels, so that raw data and labels go the same way.
        steps = (
            round(n * self.half / s) for n, s in zip(self.normal, self.voxel_size, strict=True)
        )
        aside = (0, *steps)
        back = triple(-n for n in aside)
        one = array[section : section + 1]
        flat = (0, margin[1], margin[2])
        behind, before = _window(one, flat, back)[0], _window(one, flat, triple(aside))[0]
        found: Any = np.where(across > 0, behind, before)
        found[np.abs(across) <= self.half] = fill
        return found  # type: ignore[no-any-return]


def _in_plane(length: float, voxel_size: VoxelSize) -> Triple:
    """A length in whole voxels, rounded up, along y and x."""
    return 0, math.ceil(length / voxel_size[1]), math.ceil(length / voxel_size[2])


def _window(array: Array, margin: Triple, shift: Triple = (0, 0, 0)) -> Array:
    """`array` without `margin` on each side, seen `shift` voxels further on."""
    inner = (slice(m + s, n - m + s) for m, s, n in zip(margin, shift, array.shape, strict=True))
    return array[tuple(inner)]
