"""Two labelled volumes side by side, read block by block.

A block's table or map is a pure function of its voxels, so blocks may be taken
by any worker in any order. Limits: the table of the whole region must fit in
the driver's memory (24 bytes for each pair of segments that touch).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.arrays import open_array
from pipeline.errors import VolumeError
from pipeline.geometry import Box, Triple
from pipeline.volumes import Volume, open_volume
from tasks.evaluate.contingency import Contingency, contingency, merge
from tasks.evaluate.difference import Matching

Array = npt.NDArray[Any]

_PENDING_ROWS = 1 << 22


@dataclass(frozen=True)
class Pair:
    """Which voxels of two volumes belong together.

    Parameters
    ----------
    labels, truth : str
        Paths or URLs of label volumes.
    mask : str, optional
        A volume of the shape of the labels; voxels where it is 0 do not count.
    roi : Box
        The voxels of `labels` that are compared.
    offset : tuple of int
        Voxel of `labels` on which the first voxel of `truth` lies.
    """

    labels: str
    truth: str
    roi: Box
    mask: str | None = None
    offset: Triple = (0, 0, 0)

    def read(self, box: Box) -> tuple[Array, Array, npt.NDArray[np.bool_] | None]:
        """Labels, truth, and where the mask allows (None: everywhere) in `box`."""
        labels = open_volume(self.labels).read(box)
        truth = open_volume(self.truth).read(box.relative_to(self.offset))
        mask = None if self.mask is None else open_volume(self.mask).read(box) != 0
        return labels, truth, mask


def pair_up(
    labels: str,
    truth: str,
    *,
    mask: str | None = None,
    roi: Box | None = None,
    offset: Triple | None = None,
) -> Pair:
    """Check that two volumes can be compared, and say where.

    Without `roi` and `offset` they must have the same shape; with either, the
    region is `roi`, or all voxels that both volumes have.

    Raises
    ------
    VolumeError
        If shapes or voxel sizes differ, the region reaches outside of a volume,
        or one of them is no label volume.
    """
    first, second = open_volume(labels), open_volume(truth)
    for volume in (first, second):
        _check_labels(volume)
    _check_voxel_size(first, second)
    if roi is None and offset is None and first.shape != second.shape:
        raise VolumeError(
            f"{labels} has shape {first.shape}, but {truth} has {second.shape}. If they begin at "
            "the same voxel, give the region to compare with --roi; if not, say with --offset on "
            "which voxel of the labels the truth begins"
        )
    shift = offset or (0, 0, 0)
    whole = Box((0, 0, 0), first.shape)
    common = whole.intersect(Box(shift, second.shape))
    region = common if roi is None else roi
    if not region.n_voxels or not common.contains(region):
        raise VolumeError(
            f"the region to compare is {region}, but the volumes have only {common} in common; "
            "correct --roi or --offset (voxels of the labels, z y x)"
        )
    if mask is not None:
        _check_mask(open_volume(mask), first)
    return Pair(labels, truth, region, mask, shift)


def count_truth(pair: Pair, box: Box) -> Contingency:
    """The table of one block for scores: where the truth is not 0 and the mask allows."""
    labels, truth, mask = pair.read(box)
    return contingency(truth, labels, truth != 0 if mask is None else (truth != 0) & mask)


def count_either(pair: Pair, box: Box) -> Contingency:
    """The table of one block for comparing two equals: where either volume is not 0."""
    labels, truth, _ = pair.read(box)
    return contingency(labels, truth, (labels != 0) | (truth != 0))


def write_difference(pair: Pair, matching: Matching, url: str, box: Box) -> int:
    """Write 1 where the two volumes differ in a block, 0 elsewhere; returns how many differ."""
    labels, truth, _ = pair.read(box)
    different = matching.differs(labels, truth)
    open_array(url).write(box, different.astype(np.uint8))
    return int(different.sum())


def gather(tables: Iterable[Contingency]) -> Contingency:
    """Merge tables as they come, without keeping more than a few million rows of them."""
    total = merge([])
    pending: list[Contingency] = []
    for table in tables:
        pending.append(table)
        if sum(part.count.size for part in pending) > max(_PENDING_ROWS, total.count.size):
            total, pending = merge([total, *pending]), []
    return merge([total, *pending])


def _check_labels(volume: Volume) -> None:
    if volume.channels is not None or volume.dtype.kind not in "bui":
        raise VolumeError(
            f"{volume.url} holds {volume.dtype} in {volume.channels or 1} channels, which is no "
            "label volume; give one integer id for every voxel"
        )


def _check_mask(mask: Volume, labels: Volume) -> None:
    if mask.shape != labels.shape or mask.channels is not None:
        channels = f" and {mask.channels} channels" if mask.channels else ""
        raise VolumeError(
            f"the mask {mask.url} has shape {mask.shape}{channels}, but {labels.url} has "
            f"{labels.shape}; give a mask with one value for every voxel of the labels"
        )


def _check_voxel_size(first: Volume, second: Volume) -> None:
    sizes = first.voxel_size, second.voxel_size
    if None not in sizes and not np.allclose(np.array(sizes[0]), np.array(sizes[1]), rtol=1e-3):
        raise VolumeError(
            f"voxels of {first.url} are {sizes[0]} nm, those of {second.url} {sizes[1]} nm; "
            "give the same level of both, or resample one of them"
        )
