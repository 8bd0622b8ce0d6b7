"""Datasets of HDF5 files: ``file.h5:/path``.

Scale and translation are the attributes ``resolution`` and ``offset`` of the
dataset (nm, in the order of its axes); axes are the labels of its dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.formats.source import (
    Slices,
    Source,
    axis_names,
    choose_member,
    file_identity,
    split_member,
    three,
    triples,
)
from pipeline.remedies import storage_errors


def find(url: str) -> Source | None:
    """The dataset that `url` names."""
    found = split_member(url, "h5|hdf5|hdf")
    if found is None:
        return None
    path, name = found[0], found[1].strip("/")
    with storage_errors("open", url), h5py.File(path, "r") as file:
        if not isinstance(file.get(name or "/"), h5py.Dataset):
            name = choose_member(path, name, _datasets(file))
        dataset = file[name]
        attributes = dataset.attrs
        shape = tuple(dataset.shape)

        def read(slices: Slices) -> npt.NDArray[Any]:
            # The file is opened anew each time: no handle outlives a rewritten file.
            with h5py.File(path, "r") as again:
                return np.asarray(again[name][slices])

        return Source(
            url=f"{path}:/{name}",
            format="HDF5",
            shape=shape,
            chunk=dataset.chunks or (*(1 for _ in shape[:-2]), *shape[-2:]),
            dtype=np.dtype(dataset.dtype),
            read=read,
            axes=axis_names([dimension.label for dimension in dataset.dims], len(shape)),
            scale=three(attributes.get("resolution"), url, "the resolution"),
            translation=three(attributes.get("offset"), url, "the offset"),
            offsets=triples(attributes.get("offsets"), url),
            identity=file_identity(Path(path), "hdf5", dataset=name),
        )


def _datasets(file: h5py.File) -> list[str]:
    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 3:
            names.append(name)

    file.visititems(visit)
    return names
