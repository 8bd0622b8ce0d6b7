"""N5 arrays. Their axes are stored x first, as are the lists in their attributes.

Scale comes from ``resolution`` (with ``units``, else nm), or from
``pixelResolution`` where it names its unit; translation from ``offset`` (nm).
"""

from __future__ import annotations

from typing import Any

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
from pipeline.omezarr import nanometres
from pipeline.store import kvstore_url


def find(url: str) -> Source | None:
    """The N5 array at `url`, or ``s0`` of the multiscale group there."""
    attributes = read_json(url, "attributes.json")
    if attributes is None:
        return None
    if "dimensions" not in attributes:
        finest = f"{url.rstrip('/')}/s0"
        if "dimensions" not in (read_json(finest, "attributes.json") or {}):
            raise VolumeError(f"{url} is an N5 group, not an array; name an array inside it")
        return find(finest)
    array = open_driver("n5", url)
    axes = attributes.get("axes")
    return Source(
        url=url.rstrip("/"),
        format="N5",
        shape=tuple(array.shape),
        chunk=chunk_shape(array),
        dtype=numpy_dtype(array, url),
        read=reader(array, "F"),
        usual_axes="xyz",
        axes=axis_names(axes, len(array.shape)),
        scale=_scale(url, attributes),
        translation=three(attributes.get("offset"), url, "the offset"),
        offsets=triples(attributes.get("offsets"), url),
        identity={
            "format": "n5",
            "url": kvstore_url(url),
            "metadata": digest(attributes, without=("dimensions",)),
            "first_chunk": first_chunk(url, "/".join("0" * len(array.shape))),
        },
    )


def _scale(url: str, attributes: dict[str, Any]) -> Scale | None:
    values, units = attributes.get("resolution"), attributes.get("units", "nm")
    pixel = attributes.get("pixelResolution")
    if values is None and isinstance(pixel, dict):
        values, units = pixel.get("dimensions"), pixel.get("unit")
    scale = three(values, url, "the resolution")
    listed = units if isinstance(units, list) else [units] * 3
    factors = [nanometres(unit) for unit in listed if unit is None or nanometres(unit)]
    if scale is None or len(factors) < 3 or None in factors:
        return None
    return three(
        [value * (f or 1.0) for value, f in zip(scale, factors[:3], strict=True)], url, "scale"
    )
