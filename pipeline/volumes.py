"""Input volumes of any format as one read-only type with axes (c) z y x.

Invariant: axes and scale come from metadata or from the configuration, and
contradictions between the two are errors. Where a 3-D array carries no axes,
its format's documented convention is taken, and `Volume.axes_source` says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.axes import find_axes, ordered, to_zyx
from pipeline.errors import VolumeError
from pipeline.formats import Source, find_source
from pipeline.geometry import KEY_LIMITS, Box, Triple, triple
from pipeline.remedies import storage_errors

Size = tuple[float, float, float]


@dataclass(frozen=True)
class Volume:
    """A volume that can be read; see `open_volume`.

    Parameters
    ----------
    url : str
        Of the array itself, also if a group around it was asked for.
    format : str
        Name of the format.
    shape : tuple of int
        Voxels, (z, y, x).
    channels : int or None
        Length of the channel axis. An axis of length 1 is none, unless it has offsets.
    dtype : numpy.dtype
    chunk : tuple of int
        What is stored together, in voxels, (z, y, x).
    voxel_size : tuple of float or None
        nm, (z, y, x); None if neither the metadata nor the configuration says it.
    translation : tuple of float
        Position of voxel (0, 0, 0) in nm, (z, y, x).
    offsets : list of tuple of int or None
        Affinity offsets of the channels, from the attribute ``offsets``.
    axes : tuple of str
        Names of the stored axes in storage order.
    axes_source : str
        Where they are known from: ``"metadata"``, ``"configuration"``, or
        ``"convention of …"``.
    identity : mapping
        Plain JSON that tells this volume from another one. It does not hold the
        shape: a chunked volume or a stack of sections that grows keeps it.
    """

    url: str
    format: str
    shape: Triple
    channels: int | None
    dtype: np.dtype[Any]
    chunk: Triple
    voxel_size: Size | None
    translation: Size
    offsets: list[Triple] | None
    axes: tuple[str, ...]
    axes_source: str
    identity: Mapping[str, Any]
    _source: Source = field(repr=False)

    def read(self, box: Box) -> npt.NDArray[Any]:
        """Voxels as they are stored, in C order.

        Parameters
        ----------
        box : Box
            Voxels, inside the volume.

        Returns
        -------
        ndarray
            Shape (z, y, x), or (c, z, y, x) if the volume has channels.

        Raises
        ------
        VolumeError
            If `box` reaches outside, or storage is damaged or out of reach.
        """
        if not Box((0, 0, 0), self.shape).contains(box):
            raise VolumeError(
                f"{box} reaches outside {self.url}, which has {self.shape} voxels (z, y, x)"
            )
        place = dict(zip("zyx", box.slices, strict=True))
        index = tuple(place.get(n, slice(None) if n == "c" else slice(0, 1)) for n in self.axes)
        with storage_errors(f"read {box} of", self.url, self._source.errors):
            values = self._source.read(index)
            if values.size != box.n_voxels * (self.channels or 1):
                raise ValueError(f"the file is damaged: its values have shape {values.shape}")
        return ordered(values, self.axes, self.channels)


def open_volume(url: str, *, voxel_size: Size | None = None, axes: str | None = None) -> Volume:
    """Open a volume for reading.

    Parameters
    ----------
    url : str
        Path or URL (``file://``, ``s3://``, ``gs://``, ``memory://``) of a zarr
        v2 or v3 array, an N5 array, a precomputed volume, or a multiscale group
        (its finest level is opened); a local ``file.h5:/path``,
        ``file.npz:/key``, ``file.npy``, multi-page TIFF, or a folder of TIFF
        sections.
    voxel_size : tuple of float, optional
        nm, (z, y, x); only needed where the metadata has none.
    axes : str, optional
        Names of the axes in storage order, such as ``"zyx"`` or ``"czyx"``;
        only needed where the metadata has none.

    Raises
    ------
    VolumeError
        If nothing is there or it cannot be read, if axes are unknown or are no
        volume's, if `voxel_size` or `axes` contradicts the metadata, or if the
        volume is larger than `pipeline.geometry.KEY_LIMITS`.

    Notes
    -----
    Chunks that were never stored read as the fill value, as all chunked formats
    define. An array of a ``.npz`` is held in memory by the process.

    Examples
    --------
    >>> from pipeline.arrays import create_array
    >>> url = "memory://open-volume/labels/s0"
    >>> create_array(url, shape=(4, 8, 8), dtype="uint32", block=(4, 4, 4),
    ...              voxel_size=(40, 4, 4), kind="labels")
    >>> volume = open_volume("memory://open-volume/labels")
    >>> volume.shape, volume.voxel_size, volume.read(Box((0, 0, 0), (1, 1, 2)))
    ((4, 8, 8), (40.0, 4.0, 4.0), array([[[0, 0]]], dtype=uint32))
    """
    source = find_source(url)
    if source.dtype.kind not in "buif":
        raise VolumeError(f"{source.url} holds {source.dtype}, which is no type of voxels")
    names, axes_source = find_axes(source, axes)
    size = _voxel_size(source, names, voxel_size)
    return _volume(source, names, axes_source, size)


def _volume(
    source: Source, names: tuple[str, ...], axes_source: str, voxel_size: Size | None
) -> Volume:
    extent = dict(zip(names, source.shape, strict=True))
    chunk = dict(zip(names, source.chunk, strict=True))
    shape = triple(extent[n] for n in "zyx")
    _check_limits(source.url, shape)
    channels = extent.get("c")
    if channels == 1 and source.offsets is None:
        channels = None
    return Volume(
        url=source.url,
        format=source.format,
        shape=shape,
        channels=channels,
        dtype=source.dtype.newbyteorder("="),
        chunk=triple(chunk[n] for n in "zyx"),
        voxel_size=voxel_size,
        translation=to_zyx(source.translation, names) or (0.0, 0.0, 0.0),
        offsets=source.offsets,
        axes=names,
        axes_source=axes_source,
        identity=dict(source.identity) | {"axes": list(names)},
        _source=source,
    )


def _check_limits(url: str, shape: Triple) -> None:
    for axis, n, limit in zip("zyx", shape, KEY_LIMITS, strict=True):
        if n == 0:
            raise VolumeError(f"{url} has no voxels along {axis}: there is nothing to read")
        if n > limit:
            raise VolumeError(
                f"{url} has {n} voxels along {axis}, but at most {limit} can be numbered "
                f"there. Crop it along {axis}, or work on a coarser level."
            )


def _voxel_size(source: Source, names: tuple[str, ...], given: Size | None) -> Size | None:
    found = to_zyx(source.scale, names)
    for whose, size in ((f"the metadata of {source.url}", found), ("the configuration", given)):
        if size is not None and any(not math.isfinite(n) or n <= 0 for n in size):
            raise VolumeError(
                f"{whose} gives a voxel size of {size} nm, which must be positive; correct it"
            )
    if given is None:
        return found
    if found is None:
        return given[0], given[1], given[2]
    if any(not math.isclose(a, b, rel_tol=1e-6) for a, b in zip(given, found, strict=True)):
        raise VolumeError(
            f"the configuration says voxel_size: {list(given)}, but the metadata of "
            f"{source.url} says {list(found)} nm (z, y, x). Remove voxel_size from the "
            "configuration, or correct the metadata."
        )
    return found
