"""Arrays in numpy's files: ``file.npy`` (mapped), ``file.npz:/key`` (held in memory).

A ``.npz`` may carry ``voxel_size`` (nm, in the order of the axes) beside its arrays.
"""

from __future__ import annotations

import functools
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.formats.source import (
    Slices,
    Source,
    choose_member,
    file_identity,
    split_member,
    three,
)
from pipeline.remedies import storage_errors

_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError)


def find(url: str) -> Source | None:
    """The array that `url` names."""
    found = split_member(url, "npy|npz")
    if found is None:
        return None
    path, name = found
    identity = file_identity(path, "numpy", key=name)
    with storage_errors("read", url, _ERRORS):
        if path.suffix.lower() == ".npy":
            return _source(str(path), np.load(path, mmap_mode="r"), None, identity)
        with np.load(path, allow_pickle=False) as archive:
            if name not in archive.files:
                keys = [key for key in archive.files if key != "voxel_size"]
                name = choose_member(path, name, keys)
            size = archive["voxel_size"] if "voxel_size" in archive.files else None
        values = _member(path, identity["mtime_ns"], name)
        return _source(f"{path}:/{name}", values, size, identity | {"key": name})


@functools.lru_cache(maxsize=2)
def _member(path: Path, mtime_ns: int, key: str) -> npt.NDArray[Any]:  # noqa: ARG001
    with np.load(path, allow_pickle=False) as archive:
        values: npt.NDArray[Any] = archive[key]
    values.flags.writeable = False
    return values


def _source(url: str, values: npt.NDArray[Any], size: Any, identity: dict[str, Any]) -> Source:
    def read(slices: Slices) -> npt.NDArray[Any]:
        return np.array(values[slices])

    return Source(
        url=url,
        format="numpy files",
        shape=values.shape,
        chunk=(*(1 for _ in values.shape[:-2]), *values.shape[-2:]),
        dtype=values.dtype,
        read=read,
        scale=three(size, url, "the voxel size"),
        identity=identity,
    )
