"""The zarr v3 metadata of output arrays: one shard per block, chunks inside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.errors import VolumeError
from pipeline.geometry import Triple

Json = dict[str, Any]

INNER = 64
"""Wished-for side of the compressed chunks inside a shard, in voxels. Of 16, 32, 64
and 128, none is faster on real labels and affinities; 64 reads one voxel beyond a
block without decompressing much."""


def inner_side(side: int) -> int:
    """The divisor of a shard's side that is nearest to `INNER`, by ratio."""
    divisors = (d for d in range(1, side + 1) if side % d == 0)
    return min(divisors, key=lambda d: max(d / INNER, INNER / d))


def array_document(
    shape: Triple, dtype: np.dtype[Any], block: Triple, channels: int | None, attributes: Json
) -> Json:
    """What ``zarr.json`` says of an array; see `pipeline.arrays.create_array`."""
    lead = [] if channels is None else [channels]
    little: Json = {"name": "bytes", "configuration": {"endian": "little"}}
    inner: Json = {
        "chunk_shape": [1] * len(lead) + [inner_side(b) for b in block],
        "codecs": [
            little,
            {"name": "zstd", "configuration": {"level": 1, "checksum": True}},
        ],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [*lead, *shape],
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*lead, *block]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "sharding_indexed", "configuration": inner}],
        "fill_value": 0,
        "dimension_names": ["c"] * len(lead) + ["z", "y", "x"],
        "attributes": attributes,
    }


def check_same(url: str, found: Json, wanted: Json) -> None:
    """Refuse an array that differs from the `wanted` one in anything but a smaller extent.

    Raises
    ------
    VolumeError
        With both values.
    """
    grown = len(found.get("shape", [])) == len(wanted["shape"]) and all(
        old <= new for old, new in zip(found["shape"][-3:], wanted["shape"][-3:], strict=True)
    )
    same = [
        key for key in wanted if key != "shape" or not grown or found[key][:-3] != wanted[key][:-3]
    ]
    for key in same:
        if found.get(key) != wanted[key]:
            raise VolumeError(
                f"{url} was made with another configuration: its {key} is {found.get(key)}, "
                f"now asked for is {wanted[key]}. Choose another output, or delete this array."
            )
