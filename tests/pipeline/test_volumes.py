"""Every format, written by its own library, opens as the same voxels."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from volume_writers import (
    BOX,
    RAW,
    SHAPE,
    compressed_pages,
    hdf5,
    imagej,
    n5,
    neuroglancer,
    npy,
    npz,
    pages,
    precomputed,
    sections,
    zarr_v2,
    zarr_v3,
)

from pipeline.geometry import Box
from pipeline.store import open_store
from pipeline.volumes import open_volume

FORMATS = [
    *(zarr_v3, zarr_v2, n5, neuroglancer, hdf5, npy, npz),
    *(pages, compressed_pages, imagej, sections),
]


@pytest.mark.parametrize("write", FORMATS)
def test_voxels_are_those_that_were_written(tmp_path, write):
    volume = open_volume(str(write(tmp_path)))
    assert volume.shape == SHAPE
    assert volume.channels is None
    assert volume.dtype == np.uint8
    assert all(1 <= c <= n for c, n in zip(volume.chunk, SHAPE, strict=True))
    found = volume.read(BOX)
    assert np.array_equal(found, RAW[BOX.slices])
    assert found.flags.c_contiguous
    assert np.array_equal(volume.read(Box((0, 0, 0), SHAPE)), RAW)
    assert volume.read(Box((19, 29, 39), (1, 1, 1))).shape == (1, 1, 1)


@pytest.mark.parametrize("write", [zarr_v3, zarr_v2, n5, neuroglancer, hdf5])
def test_channels_come_first(tmp_path, write):
    values = np.stack([RAW, RAW + 1, RAW // 2])
    volume = open_volume(str(write(tmp_path, values)))
    assert volume.channels == 3
    assert np.array_equal(volume.read(BOX), values[(slice(None), *BOX.slices)])


@pytest.mark.parametrize("write", [zarr_v3, zarr_v2, n5, neuroglancer, hdf5, npy, npz])
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float32"])
def test_dtypes_are_kept(tmp_path, write, dtype):
    values = (RAW.astype(np.float64) * 3).astype(dtype)
    volume = open_volume(str(write(tmp_path, values)))
    assert volume.dtype == np.dtype(dtype)
    assert np.array_equal(volume.read(BOX), values[BOX.slices])


@pytest.mark.parametrize("write", [zarr_v3, zarr_v2, hdf5, npy])
def test_masks_of_bool_are_read(tmp_path, write):
    volume = open_volume(str(write(tmp_path, RAW > 9)))
    assert volume.read(BOX).dtype == np.bool_


def test_big_endian_values_become_native(tmp_path):
    volume = open_volume(str(npy(tmp_path, RAW.astype(">u2"))))
    assert volume.dtype.isnative
    assert volume.read(BOX).dtype.isnative
    assert np.array_equal(volume.read(BOX), RAW[BOX.slices])


@given(st.permutations("czyx"))
def test_any_order_of_axes_gives_the_same_voxels(tmp_path_factory, axes):
    values = np.stack([RAW, RAW // 2])
    path = tmp_path_factory.mktemp("axes") / "a.npy"
    np.save(path, values.transpose(["czyx".index(axis) for axis in axes]))
    volume = open_volume(str(path), axes="".join(axes))
    assert volume.axes_source == "configuration"
    assert volume.shape == SHAPE
    assert np.array_equal(volume.read(BOX), values[(slice(None), *BOX.slices)])


@pytest.mark.s3
@pytest.mark.parametrize("write", [zarr_v3, n5, neuroglancer])
def test_bucket_is_read_like_a_folder(tmp_path, bucket, write):
    store = open_store(f"{bucket}/{tmp_path.name}")
    folder = Path(write(tmp_path))
    for path in folder.rglob("*"):
        if path.is_file():
            store.write(str(path.relative_to(folder)), path.read_bytes())
    volume = open_volume(f"{bucket}/{tmp_path.name}")
    assert np.array_equal(volume.read(BOX), RAW[BOX.slices])


def test_memory_is_read_like_a_folder():
    precomputed("memory://test-volumes/p", RAW)
    assert np.array_equal(open_volume("memory://test-volumes/p").read(BOX), RAW[BOX.slices])
