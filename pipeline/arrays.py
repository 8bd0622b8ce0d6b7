"""Output arrays: zarr v3, one shard per block, written whole or not at all.

Invariant: a shard is one object and belongs to one block, so that no two
blocks ever write the same object, and a block that is written again, or was
interrupted, leaves either its old or its new content. To keep it so at the
upper sides of the array, where shards are clipped, arrays are written through
a handle whose shape is rounded up to whole shards: every write covers its
shards completely and never reads them first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore as ts

from pipeline import omezarr
from pipeline.errors import VolumeError
from pipeline.geometry import Box, Triple, triple
from pipeline.remedies import storage_errors
from pipeline.sharding import Json, array_document, check_same
from pipeline.store import context, kvstore, open_store


def create_array(
    url: str,
    *,
    shape: Triple,
    dtype: npt.DTypeLike,
    block: Triple,
    voxel_size: tuple[float, float, float],
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0),
    channels: int | None = None,
    attributes: Mapping[str, Any] | None = None,
    kind: omezarr.Kind,
) -> None:
    """Create an array of zeros, or find that it is there already.

    Any number of processes may do this at the same time.

    Parameters
    ----------
    url : str
        ``<output>/<group>/s<level>``; group and output get their metadata too.
    shape : tuple of int
        Voxels, (z, y, x). If the array exists, it may have grown.
    dtype : dtype
        An integer or float type.
    block : tuple of int
        Shape of a shard in voxels (all channels lie in one shard).
    voxel_size, translation : tuple of float
        nm, (z, y, x).
    channels : int, optional
        Length of a leading channel axis; without it there is none.
    attributes : mapping, optional
        Plain JSON, kept with the array (``offsets``, for example).
    kind : {"image", "labels"}
        What the multiscale group declares itself to be.

    Raises
    ------
    VolumeError
        If an array that differs in anything but a smaller shape is there.
    """
    wanted = array_document(shape, np.dtype(dtype), block, channels, dict(attributes or {}))

    def change(old: bytes | None) -> bytes | None:
        if old is not None:
            found = json.loads(old)
            check_same(url, found, wanted)
            if found["shape"] == wanted["shape"]:
                return None
        return json.dumps(wanted, indent=2).encode()

    open_store(url).update("zarr.json", change)
    omezarr.add_level(
        url,
        kind=kind,
        channels=channels is not None,
        scale=voxel_size,
        translation=translation,
    )


def open_array(url: str) -> OutputArray:
    """Open an array that `create_array` made.

    Raises
    ------
    VolumeError
        If there is none, or it has no shards.
    """
    data = open_store(url).read("zarr.json")
    if data is None:
        raise VolumeError(f"there is no array at {url}; the step that creates it has not run")
    return OutputArray(url, json.loads(data))


class OutputArray:
    """An array in blocks; see `create_array` and `open_array`.

    Attributes
    ----------
    shape : tuple of int
        Voxels, (z, y, x).
    channels : int or None
        Length of the leading channel axis.
    dtype : numpy.dtype
    block : tuple of int
        Voxels of a shard, (z, y, x).
    attributes : dict
        What was given to `create_array`.
    """

    def __init__(self, url: str, document: Json) -> None:
        if document.get("codecs", [{}])[0].get("name") != "sharding_indexed":
            raise VolumeError(
                f"the array at {url} has no shards, so it was not made by Raphe; "
                "choose another output"
            )
        self.url = url
        self.shape = triple(document["shape"][-3:])
        self.channels: int | None = document["shape"][0] if len(document["shape"]) == 4 else None
        self.dtype = np.dtype(document["data_type"])
        self.block = triple(document["chunk_grid"]["configuration"]["chunk_shape"][-3:])
        self.attributes: Json = document.get("attributes", {})
        whole = [
            n if axis == "c" else math.ceil(n / b) * b
            for n, b, axis in zip(
                document["shape"],
                document["chunk_grid"]["configuration"]["chunk_shape"],
                document["dimension_names"],
                strict=True,
            )
        ]
        spec = {
            "driver": "zarr3",
            "kvstore": kvstore(url),
            "metadata": document | {"shape": whole},
        }
        with storage_errors("open", url):
            self._array = ts.open(spec, open=True, assume_metadata=True, context=context()).result()

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of `box`, shape (z, y, x) or (c, z, y, x); 0 where nothing was written."""
        if not Box((0, 0, 0), self.shape).contains(box):
            raise VolumeError(f"{box} is not inside {self.url}, whose shape is {self.shape}")
        with storage_errors(f"read {box} of", self.url):
            found: npt.NDArray[Any] = self._array[(..., *box.slices)].read(order="C").result()
        return found

    def write(self, box: Box, data: npt.NDArray[Any]) -> None:
        """Replace the shards that `box` lies in; what `box` leaves out of them becomes 0.

        Parameters
        ----------
        box : Box
            Whole shards (up to the array's end), or a part of one shard: that of
            a block which is clipped to the region of interest.
        data : ndarray
            The array's dtype, shape (z, y, x) or (c, z, y, x).

        Raises
        ------
        VolumeError
            If `box` cuts through several shards, or `data` does not fit.
        """
        target = self._shards(box)
        self._check_data(box, data)
        if target != box:
            padded = np.zeros((*data.shape[:-3], *target.shape), self.dtype)
            padded[(..., *box.relative_to(target.offset).slices)] = data
            data = padded
        with storage_errors(f"write {box} of", self.url):
            self._array[(..., *target.slices)].write(data).result()

    def _shards(self, box: Box) -> Box:
        """The whole shards around `box`, of which nothing but voxels outside may be left out."""
        volume = Box((0, 0, 0), self.shape)
        sides = list(zip(box.offset, box.end, self.block, strict=True))
        hull = Box.between(
            triple(begin // b * b for begin, _, b in sides),
            triple(-(-end // b) * b for _, end, b in sides),
        )
        whole = hull.intersect(volume)
        if (
            not box.n_voxels
            or not volume.contains(box)
            or (box != whole and hull.shape != self.block)
        ):
            raise VolumeError(
                f"{box} is not made of whole blocks of {self.block} voxels inside {self.url} "
                f"of shape {self.shape}; the blocks around it are {whole}. Write those."
            )
        return hull

    def _check_data(self, box: Box, data: npt.NDArray[Any]) -> None:
        expected = box.shape if self.channels is None else (self.channels, *box.shape)
        if data.shape != expected or data.dtype != self.dtype:
            raise VolumeError(
                f"cannot write {data.dtype} of shape {data.shape} to {box} of {self.url}: "
                f"{self.dtype} of shape {expected} is expected"
            )
