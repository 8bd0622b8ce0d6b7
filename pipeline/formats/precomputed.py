"""Neuroglancer precomputed volumes: axes x y z channel, resolution in nm.

A volume's URL opens its finest scale; ``<volume>/<key>`` opens that scale.
"""

from __future__ import annotations

import math
from typing import Any

from pipeline.formats.chunked import chunk_shape, numpy_dtype, open_driver, read_json, reader
from pipeline.formats.source import Source, digest, three
from pipeline.remedies import metadata_errors
from pipeline.store import kvstore_url

_DRIVER = "neuroglancer_precomputed"


def find(url: str) -> Source | None:
    """The finest scale of the volume at `url`, or the scale that `url` names."""
    volume = url.rstrip("/")
    info = read_json(volume, "info")
    if info is not None and "scales" in info:
        with metadata_errors("info", url):
            finest = min(info["scales"], key=lambda scale: math.prod(scale["resolution"]))
            return _source(volume, info, finest)
    parent, _, key = volume.rpartition("/")
    if not parent or parent.endswith(":/"):
        return None
    info = read_json(parent, "info") or {}
    with metadata_errors("info", parent):
        named = [scale for scale in info.get("scales", []) if scale["key"] == key]
        return _source(parent, info, named[0]) if named else None


def _source(volume: str, info: dict[str, Any], scale: dict[str, Any]) -> Source:
    url = f"{volume}/{scale['key']}"
    array = open_driver(_DRIVER, volume, {"scale_index": info["scales"].index(scale)})
    resolution = three(scale["resolution"], url, "the resolution")
    offset = scale.get("voxel_offset", [0, 0, 0])
    pairs = zip(offset, resolution or (), strict=True)
    kept = {"info": {key: info[key] for key in ("type", "data_type", "num_channels")}}
    return Source(
        url=url,
        format="precomputed",
        shape=tuple(array.shape),
        chunk=chunk_shape(array),
        dtype=numpy_dtype(array, url),
        read=reader(array, "F"),
        axes=("x", "y", "z", "c"),
        scale=resolution,
        translation=three([o * r for o, r in pairs], url, "the voxel_offset"),
        identity={
            "format": _DRIVER,
            "url": kvstore_url(url),
            "metadata": digest(scale | kept, without=("size",)),
        },
    )
