"""Changes of place: flips, transpositions, rotations, elastic deformation.

All move raw data and labels alike, about their common centre.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from pipeline.geometry import Triple, triple
from tasks.kernels.warp import linear, nearest
from tasks.parts import Array, Augmentation, Crop, Floats, VoxelSize

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Length = Annotated[float, Field(gt=0.0)]

_FAR = 2.0
"""Voxels longer than this many of the shortest ones are sections, cut one by one."""


class Flip(Augmentation):
    """Mirrored along any axes, each with even odds."""

    kind: Literal["flip"] = Field("flip", description="The augmentation.")

    def apply(self, crop: Crop, rng: np.random.Generator) -> Crop:
        """The crop, mirrored."""
        flips, changed = rng.integers(0, 2, 3), rng.random() < self.probability
        step = tuple(slice(None, None, -1 if flip and changed else 1) for flip in flips)
        return dataclasses.replace(crop, raw=crop.raw[step], labels=crop.labels[step])


class Transpose(Augmentation):
    """Axes are exchanged, among those of equal voxel size and equal extent."""

    kind: Literal["transpose"] = Field("transpose", description="The augmentation.")

    def apply(self, crop: Crop, rng: np.random.Generator) -> Crop:
        """The crop, its axes in one of the orders that leave shapes and voxel size alone."""
        allowed = [
            order
            for order in itertools.permutations(range(3))
            if all(_alike(crop, a, b) for a, b in enumerate(order))
        ]
        order = allowed[rng.integers(len(allowed))]
        if rng.random() >= self.probability:
            return crop
        return dataclasses.replace(
            crop, raw=crop.raw.transpose(order), labels=crop.labels.transpose(order)
        )


class Rotate(Augmentation):
    """Turned by any angle in a plane whose axes have equal voxel size."""

    kind: Literal["rotate"] = Field("rotate", description="The augmentation.")
    probability: Share = Field(0.5, description="Share of crops that are changed.")
    angle: Annotated[float, Field(gt=0.0, le=180.0)] = Field(
        45.0, description="Largest angle in degrees; flips and transpositions do the rest."
    )
    room: Annotated[int, Field(ge=0)] = Field(
        16,
        description="Voxels that are read beyond a crop on each side, for its corners. Where they "
        "reach further, raw data are mirrored and labels unknown.",
    )

    def margin(self, voxel_size: VoxelSize) -> Triple:
        """Voxels that `apply` takes off: `room` along the axes that may turn."""
        turning = {axis for plane in _planes(voxel_size) for axis in plane}
        return triple(self.room if axis in turning else 0 for axis in range(3))

    def apply(self, crop: Crop, rng: np.random.Generator) -> Crop:
        """The crop, turned about its centre."""
        margin, planes = self.margin(crop.voxel_size), _planes(crop.voxel_size)
        angle = math.radians(rng.uniform(-self.angle, self.angle))
        if rng.random() >= self.probability or not planes:
            return _trimmed(crop, margin)
        a, b = planes[rng.integers(len(planes))]
        turn = np.eye(3, dtype=np.float32)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        still = [np.zeros((3, *_inner(array, margin)), np.float32) for array in _both(crop)]
        return dataclasses.replace(
            crop,
            raw=linear(np.ascontiguousarray(crop.raw), still[0], turn),
            labels=nearest(np.ascontiguousarray(crop.labels), still[1], turn),
        )


class Elastic(Augmentation):
    """Deformed by a smooth random displacement, within sections where voxels are long along z.

    Displacements at the points of a coarse grid are joined by uniform cubic
    B-splines, and held below twice their standard deviation.
    """

    kind: Literal["elastic"] = Field("elastic", description="The augmentation.")
    probability: Share = Field(0.5, description="Share of crops that are changed.")
    amplitude: Length = Field(
        20.0, description="Standard deviation of the displacement along an axis, nm."
    )
    spacing: Length = Field(400.0, description="Distance of the grid's points, nm.")

    @model_validator(mode="after")
    def _smooth(self) -> Self:
        if self.spacing < 5 * self.amplitude:
            raise ValueError(
                f"a displacement of {self.amplitude} nm on a grid of {self.spacing} nm would fold "
                f"tissue onto itself; set spacing to at least {5 * self.amplitude} nm, or a "
                "smaller amplitude"
            )
        return self

    def margin(self, voxel_size: VoxelSize) -> Triple:
        """Voxels that `apply` takes off: the largest displacement."""
        free = _free(voxel_size)
        return triple(
            math.ceil(2 * self.amplitude / size) if axis in free else 0
            for axis, size in enumerate(voxel_size)
        )

    def apply(self, crop: Crop, rng: np.random.Generator) -> Crop:
        """The crop, deformed."""
        margin = self.margin(crop.voxel_size)
        if rng.random() >= self.probability:
            return _trimmed(crop, margin)
        spacing = [self.spacing / size for size in crop.voxel_size]
        shapes = [_inner(array, margin) for array in _both(crop)]
        extent = (max(shape[axis] for shape in shapes) for axis in range(3))
        points = [math.ceil(n / s) + 4 for n, s in zip(extent, spacing, strict=True)]
        control = rng.standard_normal((3, *points), dtype=np.float32)
        fields = [self._displacement(control, shape, crop.voxel_size) for shape in shapes]
        straight = np.eye(3, dtype=np.float32)
        return dataclasses.replace(
            crop,
            raw=linear(np.ascontiguousarray(crop.raw), fields[0], straight),
            labels=nearest(np.ascontiguousarray(crop.labels), fields[1], straight),
        )

    def _displacement(self, control: Floats, shape: Triple, voxel_size: VoxelSize) -> Floats:
        """Voxels, (3, z, y, x), for an array of `shape` about the common centre."""
        field = control
        for axis in (0, 1, 2):
            weights = _spline(shape[axis], self.spacing / voxel_size[axis], control.shape[axis + 1])
            field = np.moveaxis(np.tensordot(field, weights, (axis + 1, 1)), -1, axis + 1)
        free = _free(voxel_size)
        voxels = [self.amplitude / n if i in free else 0.0 for i, n in enumerate(voxel_size)]
        scale = np.array(voxels, np.float32)[:, None, None, None]
        bounded: Floats = np.ascontiguousarray(2 * scale * np.tanh(field / 2))
        return bounded


def _spline(n: int, spacing: float, points: int) -> Floats:
    """Weights (n, points) of control points for voxels about the centre, of unit variance.

    Independent control points of variance 1 give a displacement of variance 1.
    """
    place = (np.arange(n) - (n - 1) / 2) / spacing
    away = np.abs(place[:, None] - (np.arange(points) - (points - 1) / 2))
    inner = 2 / 3 - away**2 + away**3 / 2
    outer = np.clip(2 - away, 0, None) ** 3 / 6
    weights = np.where(away < 1, inner, outer)
    scaled = weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))
    found: Floats = scaled.astype(np.float32)
    return found


def _free(voxel_size: VoxelSize) -> list[int]:
    """Axes along which tissue is continuous."""
    return [axis for axis in range(3) if voxel_size[axis] <= _FAR * min(voxel_size)]


def _planes(voxel_size: VoxelSize) -> list[tuple[int, int]]:
    """Pairs of axes of equal voxel size."""
    return [
        (a, b)
        for a, b in itertools.combinations(range(3), 2)
        if math.isclose(voxel_size[a], voxel_size[b], rel_tol=0.01)
    ]


def _alike(crop: Crop, a: int, b: int) -> bool:
    same = all(array.shape[a] == array.shape[b] for array in _both(crop))
    return same and math.isclose(crop.voxel_size[a], crop.voxel_size[b], rel_tol=0.01)


def _both(crop: Crop) -> tuple[Array, Array]:
    return crop.raw, crop.labels


def _inner(array: Array, margin: Triple) -> Triple:
    return triple(n - 2 * m for n, m in zip(array.shape, margin, strict=True))


def _trimmed(crop: Crop, margin: Triple) -> Crop:
    inner = tuple(slice(m, -m or None) for m in margin)
    return dataclasses.replace(crop, raw=crop.raw[inner], labels=crop.labels[inner])
