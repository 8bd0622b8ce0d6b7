"""Random crops, read from where volumes are stored, and what they teach.

A crop is a function of (seed, step, index) alone: training that resumes goes on
with the crops that it would have had, and it does not matter which process
makes which. What a crop or its context sees beyond the used voxels is
mirrored, raw data and labels alike.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.geometry import Box, Triple, triple
from pipeline.volumes import Volume
from tasks.networks.model import Normalisation
from tasks.parts import Array, Augmentation, Crop, Labels, Target, VoxelSize
from tasks.targets.boundary import core as inner
from tasks.tiles import read_mirrored
from tasks.train.data import Truth, compact, open_mask, open_pair, specks, used_box

Sample = dict[str, npt.NDArray[Any]]

_TRIES = 10
"""Places that are tried until one holds anything that is known."""


@dataclass(frozen=True)
class _Source:
    """An opened `Truth`."""

    truth: Truth
    raw: Volume
    labels: Volume
    mask: Volume | None
    used: Box

    @classmethod
    def open(cls, truth: Truth, voxel_size: VoxelSize) -> _Source:
        raw, labels = open_pair(truth, voxel_size)
        mask = open_mask(truth, raw, voxel_size)
        return cls(truth, raw, labels, mask, used_box(truth, raw.shape))

    def read_raw(self, box: Box) -> Array:
        """Raw data of a box that is counted from the first used voxel."""
        return self._read(self.raw, box)

    def read_labels(self, box: Box, dropped: npt.NDArray[np.integer]) -> Labels:
        """Its labels, compact."""
        labels = compact(self._read(self.labels, box), dropped, self.truth.background)
        if self.mask is not None:
            labels[self._read(self.mask, box) == 0] = 0
        return labels

    def _read(self, volume: Volume, box: Box) -> Array:
        def inside(part: Box) -> Array:
            return volume.read(Box(_sum(self.used.offset, part.offset), part.shape))

        return read_mirrored(inside, self.used.shape, box)


class Crops:
    """Random crops of annotated volumes, ready for the network.

    It may be sent to another process, where it opens the volumes anew.

    Parameters
    ----------
    truths : sequence of Truth
        Each is drawn by its weight, or by the number of its voxels.
    voxel_size : tuple of float
        nm.
    core : tuple of int
        Voxels that are taught at a time, (z, y, x).
    context : tuple of int
        Voxels of raw data beyond it that the network needs, on each side.
    heads : mapping of str to Target
        What is taught.
    augmentations : sequence of Augmentation
        Applied in this order.
    scaling : Normalisation
        Of raw data.
    dust : int
        Objects of fewer voxels are unknown.
    seed : int
        Not negative.

    Raises
    ------
    ConfigError
        If only some volumes have a weight, or one has nothing to teach.
    """

    def __init__(
        self,
        truths: Sequence[Truth],
        *,
        voxel_size: VoxelSize,
        core: Triple,
        context: Triple,
        heads: Mapping[str, Target],
        augmentations: Sequence[Augmentation],
        scaling: Normalisation,
        dust: int,
        seed: int,
    ) -> None:
        self.truths, self.voxel_size, self.core, self.context = truths, voxel_size, core, context
        self.heads, self.augmentations, self.scaling, self.seed = (
            heads,
            augmentations,
            scaling,
            seed,
        )
        reaches = [head.reach(voxel_size) for head in heads.values()]
        self.reach = triple(max(reach[axis] for reach in reaches) for axis in range(3))
        margins = [each.margin(voxel_size) for each in augmentations]
        self.margin = triple(sum(margin[axis] for margin in margins) for axis in range(3))
        self._specks = [specks(truth, voxel_size, dust) for truth in truths]
        self._share = _shares(self._sources)

    @functools.cached_property
    def _sources(self) -> list[_Source]:
        return [_Source.open(truth, self.voxel_size) for truth in self.truths]

    def __getstate__(self) -> dict[str, Any]:
        """Without what is opened."""
        return {name: value for name, value in self.__dict__.items() if name != "_sources"}

    def sample(self, step: int, index: int) -> Sample:
        """One crop.

        Parameters
        ----------
        step, index : int
            Step of the training, and index in its batch over all processes.

        Returns
        -------
        dict
            ``raw`` (1, z, y, x) float32, the core with its context, normalised;
            ``labels`` (z, y, x) int32 of the core; for each head ``<head>`` and
            ``<head>.known`` (c, z, y, x).
        """
        crop = self._read(np.random.default_rng([self.seed, step, index]))
        for number, augmentation in enumerate(self.augmentations, start=1):
            # Each has a generator of its own: none changes what the others draw.
            rng = np.random.default_rng([self.seed, step, index, number])
            crop = augmentation.apply(crop, rng)
        labels = np.ascontiguousarray(crop.labels)
        found: Sample = {
            "raw": np.ascontiguousarray(crop.raw)[None],
            "labels": np.ascontiguousarray(inner(labels, self.reach)),
        }
        for name, head in self.heads.items():
            taught = head.teach(labels, self.reach, self.voxel_size)
            found[name] = np.ascontiguousarray(taught.target)
            found[f"{name}.known"] = np.ascontiguousarray(taught.known)
        return found

    def batch(self, step: int, indices: Sequence[int]) -> Sample:
        """Several crops of a step, stacked: raw (n, 1, z, y, x), and so on."""
        samples = [self.sample(step, index) for index in indices]
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}

    def _read(self, rng: np.random.Generator) -> Crop:
        """A crop at random, with the margin that augmentations take off."""
        number = rng.choice(len(self._sources), p=self._share)
        source, dropped = self._sources[number], self._specks[number]
        room = [max(0, n - c) for n, c in zip(source.used.shape, self.core, strict=True)]
        around = _sum(self.reach, self.margin)
        for _ in range(_TRIES):
            box = Box(triple(int(rng.integers(0, left + 1)) for left in room), self.core)
            labels = source.read_labels(box.grow(around, around), dropped)
            if inner(labels, around).any():
                break
        around = _sum(self.context, self.margin)
        raw = source.read_raw(box.grow(around, around)).astype(np.float32)
        raw -= np.float32(self.scaling.mean)
        raw /= np.float32(self.scaling.std)
        return Crop(raw, labels, self.voxel_size)


def _shares(sources: Sequence[_Source]) -> npt.NDArray[np.float64]:
    """How often each volume is drawn."""
    weights = [source.truth.weight for source in sources]
    if any(weights) and not all(weights):
        without = [source.truth.raw for source in sources if not source.truth.weight]
        raise ConfigError(
            f"training: {', '.join(without)} has no weight, though others have; give one to all, "
            "or to none"
        )
    sizes = [
        weight or source.used.n_voxels for weight, source in zip(weights, sources, strict=True)
    ]
    return np.array(sizes, float) / sum(sizes)


def _sum(a: Triple, b: Triple) -> Triple:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
