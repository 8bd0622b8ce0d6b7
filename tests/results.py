"""What a run leaves behind, in a form that can be compared to the last bit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import create_array, open_array
from pipeline.geometry import Box, Grid, Triple
from pipeline.store import Store
from pipeline.tables import decode
from tasks.segments import read_segment_table

OFFSETS = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]


def write_affinities(url: str, affinities: np.ndarray, block: Triple) -> None:
    """Store affinities (3, z, y, x) as a step of a run would."""
    shape = affinities.shape[1:]
    create_array(
        url,
        shape=shape,
        dtype=affinities.dtype,
        block=block,
        voxel_size=(10.0, 10.0, 10.0),
        channels=3,
        attributes={"offsets": OFFSETS},
        kind="image",
    )
    array = open_array(url)
    for part in Grid(Box((0, 0, 0), shape), block):
        array.write(part.box, affinities[(slice(None), *part.box.slices)])


@dataclass
class Result:
    labels: np.ndarray
    segments: dict[str, np.ndarray]
    merges: np.ndarray
    output: str


def read_result(output: str) -> Result:
    """Labels, segment table and merge tree of a finished run."""
    labels = open_array(f"{output}/labels/s0")
    whole = labels.read(Box((0, 0, 0), labels.shape))
    return Result(whole, read_segment_table(output), merge_tree(output), output)


def merge_tree(output: str) -> np.ndarray:
    """All merges of a run as sorted rows (a, b, phase, numerator, denominator)."""
    store = Store(output)
    rows = []
    for name in store.list("tables/"):
        if name.endswith("/merges.arrow"):
            columns = decode(store.read(name), name)
            rows.append(np.stack([columns[key].astype(np.int64) for key in columns], axis=1))
    tree = np.concatenate(rows)
    return tree[np.lexsort(tree.T)]


def assert_same(result: Result, reference: Result) -> None:
    """Labels, merges and segment table are the same to the last bit."""
    np.testing.assert_array_equal(result.labels, reference.labels)
    np.testing.assert_array_equal(result.merges, reference.merges)
    assert result.segments.keys() == reference.segments.keys()
    for name, column in reference.segments.items():
        np.testing.assert_array_equal(result.segments[name], column, err_msg=name)


def digests(output: str) -> dict[str, str]:
    """Checksums of all objects with voxels or tables: two runs with the same blocks agree."""
    store = Store(output)
    return {
        name: hashlib.sha256(store.read(name)).hexdigest()
        for folder in ("affinities/", "fragments/", "labels/", "tables/")
        for name in store.list(folder)
    }
