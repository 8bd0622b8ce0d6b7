"""What the formats that TensorStore reads have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tensorstore as ts

from pipeline.errors import VolumeError
from pipeline.formats.source import Reader, Slices, local_path
from pipeline.remedies import storage_errors
from pipeline.store import context, kvstore, open_store


def read_json(url: str, name: str) -> dict[str, Any] | None:
    """A metadata object under `url`, or None if there is none.

    Raises
    ------
    VolumeError
        If the store cannot be read, or the object is not JSON.
    """
    data = open_store(url).read(name)
    if data is None:
        return None
    try:
        document = json.loads(data)
    except ValueError as error:
        raise VolumeError(
            f"the metadata object {url.rstrip('/')}/{name} is not JSON ({error}); "
            "restore it from its source"
        ) from error
    return document if isinstance(document, dict) else None


def first_chunk(url: str, name: str) -> dict[str, int]:
    """What tells the first chunk, and with it an array that was written anew, from an earlier one.

    The first chunk stays as it is when an array grows. Nothing is told of a store that is not
    local, where only reading the whole chunk would tell, nor of a chunk that is not stored.
    """
    folder = local_path(url)
    path = None if folder is None else folder / name
    if path is None or not path.is_file():
        return {}
    return {"mtime_ns": path.stat().st_mtime_ns}


def open_driver(driver: str, url: str, options: Mapping[str, Any] | None = None) -> ts.TensorStore:
    """An array of TensorStore for reading, with its first voxel at 0."""
    spec = {"driver": driver, "kvstore": kvstore(url)} | dict(options or {})
    with storage_errors("open", url):
        array = ts.open(spec, read=True, open=True, context=context()).result()
        return array[ts.d[:].translate_to[0]]


def reader(array: ts.TensorStore, order: Literal["C", "F"]) -> Reader:
    """Read from `array` into memory whose fastest axis is the last (C) or first (F) one."""

    def read(slices: Slices) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = array[slices].read(order=order).result()
        return values

    return read


def chunk_shape(array: ts.TensorStore) -> tuple[int, ...]:
    """What is decompressed together, per axis (not the shard around it)."""
    shape = array.chunk_layout.read_chunk.shape or array.shape
    return tuple(int(c or n) for c, n in zip(shape, array.shape, strict=True))


def numpy_dtype(array: ts.TensorStore, url: str) -> np.dtype[Any]:
    """The dtype of an array's voxels."""
    try:
        return np.dtype(array.dtype.numpy_dtype)
    except TypeError as error:
        raise VolumeError(
            f"{url} holds {array.dtype.name}, which is no numeric type; convert it first"
        ) from error
