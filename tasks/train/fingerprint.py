"""What a few numbers say of annotated volumes, from which a training can be planned.

After the fingerprint of nnU-Net (Isensee et al. 2021, Nature Methods 18), with
what matters to neurites: how thick they are, and whether labels leave a gap at
membranes. At most `SAMPLE` voxels in the middle of a volume are looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import edt
import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.geometry import Box, Triple, triple
from pipeline.volumes import Volume, open_volume

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
    slices : tuple of int
        The slices z from … to, not including, of which any voxel is labelled.
    labelled : float
        Share of their voxels that are labelled.
    n_objects : int
        Objects in the sample.
    calibre : float
        Diameter of the largest ball inside an object, nm; the median over labelled voxels.
    touching : float
        Of the faces of objects to another object or to unlabelled voxels, in the plane of the
        sections, the share to another object: near 1 if labels leave no gap at membranes.
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
    slices: tuple[int, int]
    labelled: float
    n_objects: int
    calibre: float
    touching: float
    mean: float
    std: float
    drift: float

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
    slices = labelled_slices(truth)
    if slices[1] - slices[0] < 2:
        raise ConfigError(
            f"{labels!r} has labels in {slices[1] - slices[0]} slices along z, and at least 2 are "
            "needed: one to learn from, one to score with; annotate more"
        )
    box = _middle(data.shape, slices)
    values, ids = data.read(box), truth.read(box)
    objects, n_objects = _objects(ids)
    section_means = values.mean(axis=(1, 2))
    std = float(values.std())
    return Fingerprint(
        raw=raw,
        labels=labels,
        shape=data.shape,
        voxel_size=size,
        dtype=data.dtype.name,
        slices=slices,
        labelled=float((ids != 0).mean()),
        n_objects=n_objects,
        calibre=_calibre(objects, n_objects, size),
        touching=_touching(objects),
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


def labelled_slices(labels: Volume) -> tuple[int, int]:
    """First slice z that is labelled, and the first one after the last of them."""
    depth, height, width = labels.shape
    step = max(1, labels.chunk[0])
    found = [
        z + int(index)
        for z in range(0, depth, step)
        for index in np.flatnonzero(
            labels.read(Box.between((z, 0, 0), (min(depth, z + step), height, width))).any((1, 2))
        )
    ]
    return (found[0], found[-1] + 1) if found else (0, 0)


def _middle(shape: Triple, slices: tuple[int, int]) -> Box:
    begin, end = (slices[0], 0, 0), (slices[1], *shape[1:])
    spans = [(b, e, min(e - b, SAMPLE)) for b, e in zip(begin, end, strict=True)]
    offset = triple(b + (e - b - n) // 2 for b, e, n in spans)
    return Box(offset, triple(n for _, _, n in spans))


def _objects(ids: Array) -> tuple[npt.NDArray[np.int32], int]:
    """Labels as 1…n, and n."""
    values, inverse = np.unique(ids, return_inverse=True)
    numbers = np.cumsum(values > 0).astype(np.int32)
    numbers[values <= 0] = 0
    return numbers[inverse].reshape(ids.shape), int(numbers.max(initial=0))


def _calibre(objects: npt.NDArray[np.int32], n: int, voxel_size: Size) -> float:
    """Diameter of the largest ball in an object, nm; the median over labelled voxels."""
    distance = edt.edt(objects, anisotropy=voxel_size, black_border=False, parallel=1)
    largest = np.zeros(n + 1, np.float32)
    np.maximum.at(largest, objects.ravel(), distance.ravel())
    # An object that fills the sample has no border, and an infinite distance to it.
    longest = max(s * d for s, d in zip(objects.shape, voxel_size, strict=True))
    calibres = np.minimum(2 * largest[1:], longest)
    # Over voxels, so that specks, of which there are many, count by their size.
    counts = np.bincount(objects.ravel(), minlength=n + 1)[1:]
    order = np.argsort(calibres)
    middle = np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)
    return float(calibres[order[middle]])


def _touching(objects: npt.NDArray[np.int32]) -> float:
    touching = open_ = 0
    for axis in (1, 2):
        lower = tuple(slice(None, -1) if i == axis else slice(None) for i in range(3))
        upper = tuple(slice(1, None) if i == axis else slice(None) for i in range(3))
        a, b = objects[lower], objects[upper]
        differ = a != b
        both = differ & (a != 0) & (b != 0)
        touching += int(both.sum())
        open_ += int(differ.sum()) - int(both.sum())
    return touching / max(1, touching + open_)
