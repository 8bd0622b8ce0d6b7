"""Zarr v2 and v3 arrays, alone or as levels of OME-Zarr multiscale groups.

Scale comes from the OME-Zarr group around the array, else from the array's own
attributes ``voxel_size`` or ``resolution`` and ``offset`` (nm, in the order of
its axes). Axes come from the group, else from zarr v3's ``dimension_names``,
else from an attribute ``axis_names``.
"""

from __future__ import annotations

from typing import Any

from pipeline import omezarr
from pipeline.errors import VolumeError
from pipeline.formats.chunked import (
    chunk_shape,
    first_chunk,
    numpy_dtype,
    open_driver,
    read_json,
    reader,
)
from pipeline.formats.source import Scale, Source, axis_names, digest, three, triples
from pipeline.store import kvstore_url

_DEPTH = 2
"""How many folders lie between a multiscale group and its arrays, at most."""

Json = dict[str, Any]


def find(url: str) -> Source | None:
    """The zarr array at `url`, or the finest level of the multiscale group there."""
    document = read_json(url, "zarr.json")
    if document is not None and document.get("node_type") == "array":
        return _source(url, "zarr3", document, document.get("attributes", {}))
    array = read_json(url, ".zarray")
    if array is not None:
        return _source(url, "zarr", array, read_json(url, ".zattrs") or {})
    attributes = _group_attributes(url)
    if attributes is None:
        return None
    levels = omezarr.levels(attributes, url)
    if not levels:
        raise VolumeError(
            f"{url} is a zarr group, not an array, and describes no multiscale image; "
            "name an array inside it"
        )
    return find(f"{url.rstrip('/')}/{levels[0].path}")


def _group_attributes(url: str) -> Json | None:
    document = read_json(url, "zarr.json")
    if document is not None:
        return document.get("attributes", {}) if document.get("node_type") == "group" else None
    attributes = read_json(url, ".zattrs")
    if attributes is not None or read_json(url, ".zgroup") is not None:
        return attributes or {}
    return None


def _source(url: str, driver: str, document: Json, attributes: Json) -> Source:
    array = open_driver(driver, url)
    ndim = len(array.shape)
    level = _level(url)
    names = level.axes if level else document.get("dimension_names") or attributes.get("axis_names")
    axes = axis_names(names, ndim)
    if level and axes is None:
        raise VolumeError(
            f"{url} has {ndim} axes, but its multiscale group names {level.axes}; repair the group"
        )
    if level and axes:
        scale, translation = _of_space(level, axes)
    else:
        size = attributes.get("voxel_size", attributes.get("resolution"))
        scale = three(size, url, "the voxel size")
        translation = three(attributes.get("offset"), url, "the offset")
    return Source(
        url=url.rstrip("/"),
        format="zarr v3" if driver == "zarr3" else "zarr v2",
        shape=tuple(array.shape),
        chunk=chunk_shape(array),
        dtype=numpy_dtype(array, url),
        read=reader(array, "C"),
        axes=axes,
        scale=scale,
        translation=translation,
        offsets=triples(attributes.get("offsets"), url),
        identity={
            "format": driver,
            "url": kvstore_url(url),
            "metadata": digest(document, without=("shape",)),
            "first_chunk": first_chunk(url, _first_chunk_name(driver, document, ndim)),
        },
    )


def _first_chunk_name(driver: str, document: Json, ndim: int) -> str:
    zeros = "0" * ndim
    if driver == "zarr":
        return str(document.get("dimension_separator", ".")).join(zeros)
    encoding = document["chunk_key_encoding"]
    if encoding["name"] == "v2":
        return str(encoding.get("configuration", {}).get("separator", ".")).join(zeros)
    return str(encoding.get("configuration", {}).get("separator", "/")).join("c" + zeros)


def _of_space(level: omezarr.Level, axes: tuple[str, ...]) -> tuple[Scale | None, Scale | None]:
    if not level.metric:
        return None, None
    space = [i for i, name in enumerate(axes) if name in ("z", "y", "x")]
    return (
        three([level.scale[i] for i in space], level.path, "the scale"),
        three([level.translation[i] for i in space], level.path, "the translation"),
    )


def _level(url: str) -> omezarr.Level | None:
    """The entry of the array at `url` in a multiscale group around it."""
    group, path = url.rstrip("/"), ""
    for _ in range(_DEPTH):
        group, _, name = group.rpartition("/")
        if not group or group.endswith(":/"):
            return None
        path = f"{name}/{path}".rstrip("/")
        attributes = _group_attributes(group)
        for level in omezarr.levels(attributes or {}, group):
            if level.path == path:
                return level
    return None
