"""Random changes of a crop that leave its labels true.

Each is drawn from a generator that belongs to the step, so that a crop is a
function of (seed, step) alone and training resumes exactly.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.geometry import Triple, triple
from tasks.networks.architecture import Part

Strength = Annotated[float, Field(ge=0.0)]
Floats = npt.NDArray[np.float32]

_HALF_RANGE = 4.0
"""Standard deviations around the mean that gamma treats as the range of intensities."""


class Augment(Part):
    """How far crops are changed; 0 or false switches one off."""

    flip: bool = Field(True, description="Mirror along any axis.")
    transpose: bool = Field(True, description="Swap axes whose voxel sizes are equal.")
    contrast: Strength = Field(0.2, description="Factor exp(u), u uniform in ± this.")
    brightness: Strength = Field(0.3, description="Shift in ± this, in standard deviations.")
    gamma: Strength = Field(0.2, description="Exponent exp(u), u uniform in ± this.")
    noise: Strength = Field(0.2, description="Largest Gaussian noise, in standard deviations.")


class Orientation(Part):
    """A flip and transposition: ``array.transpose(axes)`` then reversed where `flips`."""

    axes: Triple = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def before(self, shape: Triple) -> Triple:
        """The shape to cut so that `shape` comes out."""
        found = [0, 0, 0]
        for size, axis in zip(shape, self.axes, strict=True):
            found[axis] = size
        return triple(found)

    def apply(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array (z, y, x), turned."""
        z, y, x = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array.transpose(self.axes)[z, y, x]


def orientation(
    augment: Augment, voxel_size: tuple[float, float, float], rng: np.random.Generator
) -> Orientation:
    """A random orientation that voxels of this size allow."""
    axes: Triple = (0, 1, 2)
    if augment.transpose:
        allowed = [
            order
            for order in itertools.permutations(range(3))
            if np.allclose([voxel_size[i] for i in order], voxel_size, rtol=0.01)
        ]
        axes = triple(allowed[rng.integers(len(allowed))])
    z, y, x = (bool(flip) and augment.flip for flip in rng.integers(0, 2, 3))
    return Orientation(axes=axes, flips=(z, y, x))


def intensities(raw: Floats, augment: Augment, rng: np.random.Generator) -> Floats:
    """Normalised raw data with another contrast, brightness and gamma, and with noise."""
    contrast, brightness, gamma = rng.uniform(-1, 1, 3)
    unit = np.clip((raw + _HALF_RANGE) / (2 * _HALF_RANGE), 0, 1)
    changed = unit ** np.exp(gamma * augment.gamma) * (2 * _HALF_RANGE) - _HALF_RANGE
    changed = changed * np.exp(contrast * augment.contrast) + brightness * augment.brightness
    sigma = rng.uniform(0, 1) * augment.noise
    noise = rng.standard_normal(raw.shape, dtype=np.float32) * np.float32(sigma)
    noisy: Floats = changed.astype(np.float32) + noise
    return noisy
