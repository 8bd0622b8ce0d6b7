"""Serial sections out of place: slipped, misaligned, torn, by whole voxels in their plane."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.geometry import Triple, triple
from tasks.parts import Array, Augmentation, Crop, VoxelSize

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Strength = Annotated[float, Field(gt=0.0)]


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
