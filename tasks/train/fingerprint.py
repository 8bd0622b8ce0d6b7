"""What a few numbers say of annotated volumes, from which a training can be planned.

After the fingerprint of nnU-Net (Isensee et al. 2021, Nature Methods 18), with
what matters to neurites: how thick they are, and whether labels leave a gap at
membranes. At most `SAMPLE` voxels in the middle of a volume are looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.geometry import Box, Triple, triple
from pipeline.volumes import Volume, open_volume
from tasks.train import measures
from tasks.train.data import whole_chunks

SAMPLE = 400
"""Voxels along each axis that are looked at, at most."""

Array = npt.NDArray[Any]
Size = tuple[float, float, float]


@dataclass(frozen=True)
class Fingerprint:
    """Numbers of one annotated volume.

    Attributes
    ----------
    raw, labels : str
        URLs, as the user writes them.
    shape : tuple of int
        Voxels, (z, y, x).
    voxel_size : tuple of float
        nm, (z, y, x).
    dtype : str
        Of the raw data.
    box : Box
        The smallest one that holds all labelled voxels.
    labelled : float
        Share of its voxels that are labelled, in the sample.
    n_objects : int
        Objects in the sample.
    calibre : float
        Diameter of the largest ball inside an object, nm; the median over labelled voxels.
    touching : float
        Of the faces of objects to another object or to unlabelled voxels, in the plane of the
        sections, the share to another object: near 1 if labels leave no gap at membranes.
    thin : float
        Share of the unlabelled voxels that are close to an object (`measures.thin`): near 1 if
        what is unlabelled is membrane, near 0 if it is tissue that nobody annotated.
    mean, std : float
        Of the raw data.
    drift : float
        Standard deviation over sections of their mean, in units of `std`.
    """

    raw: str
    labels: str
    shape: Triple
    voxel_size: Size
    dtype: str
    box: Box
    labelled: float
    n_objects: int
    calibre: float
    touching: float
    thin: float
    mean: float
    std: float
    drift: float

    @property
    def has_gap(self) -> bool:
        """Whether labels leave out the membrane, so that 0 says something."""
        return self.touching < 0.5 and self.thin > 0.8

    @property
    def anisotropy(self) -> float:
        """Longest over shortest side of a voxel."""
        return max(self.voxel_size) / min(self.voxel_size)


def take_fingerprint(raw: str, labels: str, voxel_size: Size | None = None) -> Fingerprint:
    """The fingerprint of a raw volume and its labels.

    Raises
    ------
    ConfigError
        If the two are not the same voxels, no voxel size is known, the raw data are of a
        dtype that no network takes, or fewer than two slices are labelled.
    VolumeError
        If one cannot be opened, or `voxel_size` contradicts its metadata.
    """
    data, truth = _open(raw, labels, voxel_size)
    size = data.voxel_size or truth.voxel_size
    if size is None:
        raise ConfigError(
            f"neither {raw!r} nor {labels!r} carries a voxel size; give it: --voxel-size Z Y X, nm"
        )
    labelled = labelled_box(truth)
    if labelled.shape[0] < 2:
        raise ConfigError(
            f"{labels!r} has labels in {labelled.shape[0]} slices along z, and at least 2 are "
            "needed: one to learn from, one to score with; annotate more"
        )
    box = _middle(labelled)
    values, ids = data.read(box), truth.read(box)
    objects, n_objects = measures.compacted(ids)
    if n_objects == 0:
        raise ConfigError(
            f"{labels!r} has no labels in {box}, the middle of what is labelled; give the parts "
            "that are annotated as volumes of their own"
        )
    section_means = values.mean(axis=(1, 2))
    std = float(values.std())
    return Fingerprint(
        raw=raw,
        labels=labels,
        shape=data.shape,
        voxel_size=size,
        dtype=data.dtype.name,
        box=labelled,
        labelled=float((ids != 0).mean()),
        n_objects=n_objects,
        calibre=measures.calibre(objects, n_objects, size),
        touching=measures.touching(objects),
        thin=measures.thin(objects, size),
        mean=float(values.mean()),
        std=std,
        drift=float(section_means.std() / std) if std > 0 else 0.0,
    )


def _open(raw: str, labels: str, voxel_size: Size | None) -> tuple[Volume, Volume]:
    data = open_volume(raw, voxel_size=voxel_size)
    truth = open_volume(labels, voxel_size=voxel_size)
    if data.shape != truth.shape or data.channels or truth.channels:
        raise ConfigError(
            f"{raw!r} has shape {data.shape} and its labels {labels!r} have {truth.shape}; they "
            "must be the same voxels, without channels"
        )
    if data.voxel_size and truth.voxel_size and not is_same_size(data.voxel_size, truth.voxel_size):
        raise ConfigError(
            f"{raw!r} has voxels of {list(data.voxel_size)} nm and its labels {labels!r} of "
            f"{list(truth.voxel_size)} nm; correct the metadata of one"
        )
    if data.dtype.name not in ("uint8", "uint16"):
        raise ConfigError(
            f"{raw!r} holds {data.dtype}, and networks take uint8 or uint16; convert it. (The raw "
            "volume comes first, the labels second.)"
        )
    if truth.dtype.kind not in "ui":
        raise ConfigError(f"{labels!r} holds {truth.dtype}, and labels are integers; convert it")
    return data, truth


def is_same_size(a: Size, b: Size) -> bool:
    """Whether two voxel sizes are the same, up to rounding."""
    return all(math.isclose(x, y, rel_tol=1e-6) for x, y in zip(a, b, strict=True))


def labelled_box(labels: Volume) -> Box:
    """The smallest box that holds all labelled voxels."""
    begin, end = list(labels.shape), [0, 0, 0]
    for block in whole_chunks(labels, Box((0, 0, 0), labels.shape)):
        known = labels.read(block.box) != 0
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            if (found := np.flatnonzero(known.any(others))).size:
                begin[axis] = min(begin[axis], block.box.offset[axis] + int(found[0]))
                end[axis] = max(end[axis], block.box.offset[axis] + int(found[-1]) + 1)
    return Box.between(triple(begin), triple(end))


def _middle(box: Box) -> Box:
    """At most `SAMPLE` voxels along each axis."""
    shape = triple(min(n, SAMPLE) for n in box.shape)
    spans = zip(box.offset, box.shape, shape, strict=True)
    return Box(triple(o + (n - m) // 2 for o, n, m in spans), shape)
