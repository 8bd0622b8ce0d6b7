"""Annotated volumes: what they are, and what must be known of them before training.

Nothing here holds a volume: what is asked of one is found block by block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from pipeline.errors import ConfigError
from pipeline.geometry import Box, Grid, Triple, triple
from pipeline.volumes import Volume, open_volume
from tasks.networks.model import Normalisation
from tasks.parts import Array, Labels, Part, VoxelSize
from tasks.targets.boundary import BACKGROUND

Positive = Annotated[int, Field(gt=0)]
Index = Annotated[int, Field(ge=0)]

_BLOCK = 128
"""Voxels along an axis that are read at a time, in whole chunks."""


class Region(Part):
    """A box of voxels, z y x."""

    offset: tuple[Index, Index, Index] = Field(description="First voxel.")
    shape: tuple[Positive, Positive, Positive] = Field(description="Extent.")


class Truth(Part):
    """A raw volume and its labels, of one shape."""

    raw: str = Field(description="Raw volume: a path or URL.")
    labels: str = Field(description="Its labels; 0 is unknown.")
    mask: str | None = Field(None, description="Volume that is 0 where labels are unknown, too.")
    background: list[Index] = Field(
        [],
        description="Labels of what is known to be no object, such as a membrane; 0 may be one.",
    )
    slices: tuple[Index, Positive] | None = Field(
        None, description="Slices z from … to, not including, that are used; all if null."
    )
    box: Region | None = Field(None, description="Box that is used, in place of `slices`.")
    weight: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="How often it is drawn, against the others; by its voxels if null."
    )

    @model_validator(mode="after")
    def _once(self) -> Self:
        if self.slices and self.box:
            raise ValueError("slices and box both say what is used; remove one of them")
        return self


def open_pair(truth: Truth, voxel_size: VoxelSize) -> tuple[Volume, Volume]:
    """The raw volume and the labels of `truth`.

    Raises
    ------
    ConfigError
        If they are not the same voxels, if labels are no integers, or if what is
        used lies outside.
    VolumeError
        If one cannot be opened, or has voxels of another size.
    """
    raw = open_volume(truth.raw, voxel_size=voxel_size)
    labels = _beside(raw, truth.labels, "labels", voxel_size)
    if labels.dtype.kind not in "bui":
        raise ConfigError(
            f"labels {truth.labels!r} are {labels.dtype}, but ids of objects are integers; "
            "convert them"
        )
    if truth.slices and not truth.slices[0] < truth.slices[1] <= raw.shape[0]:
        raise ConfigError(
            f"slices {list(truth.slices)} are not inside 0…{raw.shape[0]}, the extent of "
            f"{truth.raw!r} along z"
        )
    if truth.box and not Box((0, 0, 0), raw.shape).contains(used_box(truth, raw.shape)):
        raise ConfigError(
            f"box {truth.box.model_dump()} reaches outside {truth.raw!r}, which has {raw.shape} "
            "voxels (z, y, x)"
        )
    return raw, labels


def open_mask(truth: Truth, raw: Volume, voxel_size: VoxelSize) -> Volume | None:
    """The mask of `truth`, if it has one.

    Raises
    ------
    ConfigError
        If it is not of the same voxels as `raw`.
    """
    return None if truth.mask is None else _beside(raw, truth.mask, "mask", voxel_size)


def _beside(raw: Volume, url: str, what: str, voxel_size: VoxelSize) -> Volume:
    found = open_volume(url, voxel_size=voxel_size)
    if raw.shape != found.shape or raw.channels or found.channels:
        raise ConfigError(
            f"{raw.url!r} has shape {raw.shape} and its {what} {url!r} {found.shape}; they must "
            "be the same voxels, without channels"
        )
    return found


def used_box(truth: Truth, shape: Triple) -> Box:
    """The voxels that `truth` names, of a volume of `shape`."""
    if truth.box:
        return Box(truth.box.offset, truth.box.shape)
    begin, end = truth.slices or (0, shape[0])
    return Box.between((begin, 0, 0), (end, *shape[1:]))


def normalisation(truths: Sequence[Truth], voxel_size: VoxelSize) -> tuple[Normalisation, str]:
    """Mean and standard deviation of all voxels that are learnt from, and their dtype.

    Raises
    ------
    ConfigError
        If all voxels have the same value, or dtypes differ or are none that a model takes.
    """
    dtypes, n, total, squares = set(), 0, 0, 0
    for truth in truths:
        raw, _ = open_pair(truth, voxel_size)
        dtypes.add(raw.dtype.name)
        if len(dtypes) > 1 or not dtypes <= {"uint8", "uint16"}:
            raise ConfigError(
                f"raw volumes have dtypes {', '.join(sorted(dtypes))}; a model takes either uint8 "
                "or uint16, so convert them all to one of these"
            )
        for values in _blocks(raw, used_box(truth, raw.shape)):
            # Integers: sums are exact, and do not depend on how the volume is stored.
            wide = values.astype(np.uint64)
            n, total = n + values.size, total + int(wide.sum())
            squares += int((wide * wide).sum())
    if (variance := n * squares - total * total) == 0:
        raise ConfigError(
            f"every raw voxel that is learnt from is {total // n}: there is nothing to learn. "
            "Check `training`: its raw volumes, and the voxels that are used."
        )
    return Normalisation(mean=total / n, std=math.sqrt(variance) / n), dtypes.pop()


def specks(truth: Truth, voxel_size: VoxelSize, dust: int) -> npt.NDArray[np.integer]:
    """Labels of fewer than `dust` voxels in what is used, ascending; background aside.

    Raises
    ------
    ConfigError
        If no other object is left, or an id is negative.
    """
    _, labels = open_pair(truth, voxel_size)
    ids, counts = np.zeros(0, labels.dtype), np.zeros(0, np.int64)
    for values in _blocks(labels, used_box(truth, labels.shape)):
        more, found = _counted(values)
        merged, places = np.unique(np.concatenate([ids, more]), return_inverse=True)
        sums = np.zeros(len(merged), np.int64)
        np.add.at(sums, places, np.concatenate([counts, found]))
        ids, counts = merged, sums
    check_ids(truth, ids)
    objects = ~np.isin(ids, [0, *truth.background])
    if not (objects & (counts >= dust)).any():
        raise ConfigError(
            f"{truth.labels!r} has no object of at least dust={dust} voxels where it is used"
        )
    return ids[objects & (counts < dust)]


def check_ids(truth: Truth, ids: Array) -> None:
    """Refuse negative ids, which would be an object here, and are none to a score.

    Raises
    ------
    ConfigError
        With the lowest id.
    """
    if (lowest := int(ids.min(initial=0))) < 0:
        raise ConfigError(
            f"{truth.labels!r} holds the id {lowest}, but ids are at least 0; write unknown voxels "
            "as 0, and background as an id that `background` names"
        )


def compact(
    labels: Array, dropped: npt.NDArray[np.integer], background: Sequence[int] = ()
) -> Labels:
    """Labels 1…n of the objects in an array of any integers, 0 where they are unknown.

    Parameters
    ----------
    labels : ndarray of int
    dropped : ndarray of int
        Ids that become 0, as 0 does by itself.
    background : sequence of int
        Ids that become `BACKGROUND`.
    """
    values, lengths = _runs(labels)
    ids, inverse = np.unique(values, return_inverse=True)
    is_background = np.isin(ids, background)
    kept = (ids != 0) & ~np.isin(ids, dropped) & ~is_background
    new = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    new[is_background] = BACKGROUND
    return np.repeat(new[inverse], lengths).reshape(labels.shape)


def _counted(labels: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    values, lengths = _runs(labels)
    ids, inverse = np.unique(values, return_inverse=True)
    counts = np.zeros(len(ids), np.int64)
    np.add.at(counts, inverse, lengths)
    return ids, counts


def _runs(array: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Values and lengths of the runs of equal values, which are far fewer than voxels."""
    flat = array.ravel()
    begins = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[begins], np.diff(begins, append=flat.size)


def whole_chunks(volume: Volume, box: Box) -> Grid:
    """A grid over `box` whose blocks are of whole chunks, to read it block by block."""
    return Grid(box, triple(max(1, _BLOCK // c) * c for c in volume.chunk))


def _blocks(volume: Volume, box: Box) -> Iterator[Array]:
    for block in whole_chunks(volume, box):
        yield volume.read(block.box)
