"""Training volumes in memory, and random crops of them.

A crop is a function of (seed, step, index in the batch) alone: training that
resumes goes on with the crops that it would have had. What a crop or its
context sees beyond the used slices is mirrored, raw data and labels alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.geometry import Box, Triple, triple
from pipeline.volumes import Volume, open_volume
from tasks.networks.heads import AffinityHead, Head
from tasks.networks.model import Normalisation
from tasks.tiles import read_mirrored
from tasks.train.augment import intensities, orientation
from tasks.train.config import Training, Truth
from tasks.train.targets import (
    Floats,
    Labels,
    Mask,
    affinities,
    border,
    signed_distance,
    without_dust,
)

Sample = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Annotated:
    """One annotated box, (z, y, x): raw data and what is derived from its labels."""

    raw: npt.NDArray[np.unsignedinteger]
    labels: Labels
    border: Mask
    distance: Floats


def open_pair(truth: Truth, voxel_size: tuple[float, float, float]) -> tuple[Volume, Volume]:
    """The raw volume and the labels of `truth`.

    Raises
    ------
    ConfigError
        If they are not the same voxels, or the slices lie outside.
    VolumeError
        If one cannot be opened, or has voxels of another size.
    """
    raw = open_volume(truth.raw, voxel_size=voxel_size)
    labels = open_volume(truth.labels, voxel_size=voxel_size)
    if raw.shape != labels.shape or raw.channels or labels.channels:
        raise ConfigError(
            f"{truth.raw!r} has shape {raw.shape} and its labels {truth.labels!r} have "
            f"{labels.shape}; they must be the same voxels, without channels"
        )
    if truth.slices and not truth.slices[0] < truth.slices[1] <= raw.shape[0]:
        raise ConfigError(
            f"slices {list(truth.slices)} are not inside 0…{raw.shape[0]}, the extent of "
            f"{truth.raw!r} along z"
        )
    return raw, labels


def used_box(truth: Truth, shape: Triple) -> Box:
    """The voxels of the slices that `truth` names."""
    begin, end = truth.slices or (0, shape[0])
    return Box.between((begin, 0, 0), (end, *shape[1:]))


def open_truth(truth: Truth, config: Training) -> Annotated:
    """Read the slices of an annotated volume.

    Raises
    ------
    ConfigError
        If nothing is labelled, or as `open_pair`.
    """
    raw, labels = open_pair(truth, config.voxel_size)
    box = used_box(truth, raw.shape)
    known = without_dust(labels.read(box), config.dust)
    if not known.any():
        raise ConfigError(
            f"{truth.labels!r} has no object of at least dust={config.dust} voxels in the "
            "slices that are used"
        )
    at_border = border(known)
    distance = signed_distance(at_border, config.voxel_size)
    return Annotated(raw.read(box), known, at_border, distance)


def normalisation(volumes: list[Annotated]) -> Normalisation:
    """Mean and standard deviation of all training voxels.

    Raises
    ------
    ConfigError
        If all voxels have the same value.
    """
    values = np.concatenate([volume.raw.ravel() for volume in volumes])
    if (std := float(values.std())) == 0:
        raise ConfigError(
            f"every raw voxel that is learnt from is {values[0]}: there is nothing to learn. "
            "Check `training`: its raw volumes, and the slices that are used."
        )
    return Normalisation(mean=float(values.mean()), std=std)


class Crops:
    """Random crops of annotated volumes, ready for the network.

    Parameters
    ----------
    config : Training
        Crop, heads, augmentation and seed.
    volumes : list of Annotated
        Each is drawn as often as it has voxels.
    scaling : Normalisation
        Of raw data.
    """

    def __init__(self, config: Training, volumes: list[Annotated], scaling: Normalisation) -> None:
        dtypes = {volume.raw.dtype.name for volume in volumes}
        if len(dtypes) > 1:
            raise ConfigError(f"raw volumes of several dtypes, {dtypes}; convert them to one")
        self.dtype = dtypes.pop()
        self.config = config
        self.volumes = volumes
        self.scaling = scaling
        sizes = np.array([volume.raw.size for volume in volumes], float)
        self.share = sizes / sizes.sum()
        self.reach = _reach(list(config.heads.values()))

    def batch(self, step: int) -> Sample:
        """The crops of one step, stacked: raw (n, 1, z, y, x), targets (n, c, z, y, x)."""
        rngs = [
            np.random.default_rng([self.config.seed, step, index])
            for index in range(self.config.batch)
        ]
        samples = [self.sample(rng) for rng in rngs]
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}

    def sample(self, rng: np.random.Generator) -> Sample:
        """One crop: ``raw``, and for every head ``<head>`` and ``<head>.known``."""
        config, volume = self.config, self.volumes[rng.choice(len(self.volumes), p=self.share)]
        turn = orientation(config.augment, config.voxel_size, rng)
        shape = turn.before(config.crop)
        room = (max(0, n - s) for n, s in zip(volume.raw.shape, shape, strict=True))
        core = Box(triple(rng.integers(0, left + 1) for left in room), shape)

        def cut(array: npt.NDArray[Any], margin: Triple) -> npt.NDArray[Any]:
            wider = turn.before(margin)
            whole = triple(array.shape)
            box = core.grow(wider, wider)
            return turn.apply(read_mirrored(lambda inside: array[inside.slices], whole, box))

        raw = cut(volume.raw, config.architecture.context).astype(np.float32)
        normalised = (raw - self.scaling.mean) / self.scaling.std
        labels, at_border = cut(volume.labels, self.reach), cut(volume.border, self.reach)
        distance = cut(volume.distance, (0, 0, 0))
        return {
            "raw": intensities(normalised, config.augment, rng)[None],
            **self._targets(labels, at_border, distance),
        }

    def _targets(self, labels: Labels, at_border: Mask, distance: Floats) -> Sample:
        found: Sample = {}
        for name, head in self.config.heads.items():
            if isinstance(head, AffinityHead):
                found[name], found[f"{name}.known"] = affinities(
                    labels, at_border, head.offsets, self.reach, erode=head.erode
                )
            else:
                found[name] = distance[None]
                # The offset 0 joins a voxel to itself: known where the voxel is.
                _, found[f"{name}.known"] = affinities(
                    labels, at_border, [(0, 0, 0)], self.reach, erode=False
                )
        return found


def _reach(heads: list[Head]) -> Triple:
    offsets = [o for head in heads if isinstance(head, AffinityHead) for o in head.offsets]
    return triple(max((abs(offset[axis]) for offset in offsets), default=0) for axis in range(3))
