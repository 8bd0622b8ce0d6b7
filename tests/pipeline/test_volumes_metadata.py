"""Axes, nanometres and identity come from metadata, and contradictions are errors."""

import json
import math
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from volume_writers import (
    BOX,
    NM,
    RAW,
    hdf5,
    imagej,
    n5,
    neuroglancer,
    npy,
    npz,
    ome,
    pages,
    precomputed,
    sections,
    through_tensorstore,
    zarr_v2,
    zarr_v3,
)

from pipeline.errors import VolumeError
from pipeline.volumes import open_volume


@pytest.mark.parametrize(
    ("write", "source"),
    [
        (zarr_v3, "metadata"),
        (neuroglancer, "metadata"),
        (imagej, "metadata"),
        (npz, "convention of numpy files"),
        (pages, "convention of TIFF"),
        (sections, "convention of TIFF stacks"),
    ],
)
def test_where_axes_are_known_from_is_said(tmp_path, write, source):
    assert open_volume(str(write(tmp_path))).axes_source == source


def test_n5_without_axes_is_x_first(tmp_path):
    through_tensorstore("n5", str(tmp_path / "a"), RAW.T)
    volume = open_volume(str(tmp_path / "a"))
    assert (volume.axes, volume.axes_source) == (("x", "y", "z"), "convention of N5")
    assert np.array_equal(volume.read(BOX), RAW[BOX.slices])


def test_unnamed_fourth_axis_is_refused(tmp_path):
    with pytest.raises(VolumeError, match=r"shape \(2, 20, 30, 40\).*`axes: czyx`"):
        open_volume(str(npy(tmp_path, np.stack([RAW, RAW]))))


def test_axes_that_contradict_metadata_are_refused(tmp_path):
    with pytest.raises(VolumeError, match=r"says axes: xyz, but the metadata of .* says z y x"):
        open_volume(str(zarr_v3(tmp_path)), axes="xyz")


@pytest.mark.parametrize(
    ("axes", "message"),
    [("zy", "has 3 axes .* but 2 are named"), ("zyy", "z, y and x once"), ("tyx", "z, y and x")],
)
def test_axes_of_no_volume_are_refused(tmp_path, axes, message):
    with pytest.raises(VolumeError, match=message):
        open_volume(str(npy(tmp_path)), axes=axes)


def test_time_must_be_a_single_moment(tmp_path):
    one, two = RAW[None, None], np.stack([RAW, RAW])
    assert open_volume(str(npy(tmp_path, one)), axes="tczyx").channels is None
    assert np.array_equal(
        open_volume(str(npy(tmp_path, one)), axes="tczyx").read(BOX), RAW[BOX.slices]
    )
    with pytest.raises(VolumeError, match=r"axis t of .* has length 2"):
        open_volume(str(npy(tmp_path, two)), axes="tzyx")


# --- scale and place


def test_hdf5_attributes_give_scale_and_translation(tmp_path):
    path = hdf5(tmp_path)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["volumes/raw"].attrs.update(resolution=NM, offset=(400.0, 8.0, 0.0))
    volume = open_volume(path)
    assert volume.voxel_size == NM
    assert volume.translation == (400.0, 8.0, 0.0)


def test_npz_may_carry_its_voxel_size(tmp_path):
    np.savez(tmp_path / "a.npz", raw=RAW, voxel_size=NM)
    volume = open_volume(str(tmp_path / "a.npz"))
    assert volume.url == f"{tmp_path / 'a.npz'}:/raw"
    assert volume.voxel_size == NM


def test_precomputed_is_placed_in_nanometres(tmp_path):
    precomputed(str(tmp_path), RAW, resolution=(4, 4, 40), offset=(10, 20, 30))
    volume = open_volume(f"precomputed://{tmp_path}")
    assert volume.voxel_size == NM
    assert volume.translation == (1200.0, 80.0, 40.0)
    assert np.array_equal(volume.read(BOX), RAW[BOX.slices])


def test_finest_scale_of_precomputed_is_opened_and_others_by_name(tmp_path):
    precomputed(str(tmp_path), RAW[::2, ::2, ::2], resolution=(8, 8, 80))
    precomputed(str(tmp_path), RAW)
    assert open_volume(str(tmp_path)).url == f"{tmp_path}/4_4_40"
    coarse = open_volume(f"{tmp_path}/8_8_80")
    assert coarse.voxel_size == (80.0, 8.0, 8.0)
    assert coarse.shape == (10, 15, 20)


@pytest.mark.parametrize(
    ("attributes", "voxel_size"),
    [
        ({"resolution": [4, 4, 40]}, NM),
        ({"resolution": [0.004, 0.004, 0.04], "units": ["um"] * 3}, NM),
        ({"resolution": [4, 4, 40], "units": ["furlong"] * 3}, None),
        ({"pixelResolution": {"dimensions": [0.004, 0.004, 0.04], "unit": "µm"}}, NM),
        ({"pixelResolution": [4, 4, 40]}, None),
        ({}, None),
    ],
)
def test_n5_scale_is_x_first_and_has_units(tmp_path, attributes, voxel_size):
    through_tensorstore("n5", str(tmp_path), RAW.T, metadata={"axes": ["x", "y", "z"]})
    metadata = json.loads((tmp_path / "attributes.json").read_text())
    (tmp_path / "attributes.json").write_text(json.dumps(metadata | attributes))
    assert open_volume(str(tmp_path)).voxel_size == pytest.approx(voxel_size)


@pytest.mark.parametrize(
    ("unit", "voxel_size"), [("um", NM), ("\\u00B5m", NM), ("inch", None), (None, None)]
)
def test_imagej_scale_counts_only_with_a_unit_of_length(tmp_path, unit, voxel_size):
    metadata = {"axes": "ZYX", "spacing": 0.04} | ({"unit": unit} if unit else {})
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RAW, imagej=True, resolution=(250, 250), metadata=metadata)
    assert open_volume(str(path)).voxel_size == pytest.approx(voxel_size)


def test_plain_zarr_attributes_are_nanometres(tmp_path):
    array = zarr.open_array(str(zarr_v2(tmp_path)))
    array.attrs.update(voxel_size=NM, offset=(40, 0, 4))
    volume = open_volume(str(tmp_path / "v2"))
    assert volume.voxel_size == NM
    assert volume.translation == (40.0, 0.0, 4.0)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_group_opens_its_finest_level_in_nanometres(tmp_path, version):
    ome(tmp_path, version)
    for url in (tmp_path, f"{tmp_path}/", f"{tmp_path}/scale/0", tmp_path.as_uri()):
        volume = open_volume(str(url))
        assert volume.url.endswith("/scale/0")
        assert volume.voxel_size == pytest.approx(NM)
        assert volume.translation == pytest.approx((10.0, 12.0, 14.0))
        assert np.array_equal(volume.read(BOX), RAW[BOX.slices])
    assert open_volume(f"{tmp_path}/scale/1").voxel_size == pytest.approx((80.0, 8.0, 8.0))


def test_ome_zarr_without_units_has_no_voxel_size(tmp_path):
    ome(tmp_path, "0.5", unit=None)
    assert open_volume(str(tmp_path)).voxel_size is None
    assert open_volume(str(tmp_path), voxel_size=NM).voxel_size == NM


def test_scale_given_twice_must_agree(tmp_path):
    ome(tmp_path, "0.5")
    assert open_volume(str(tmp_path), voxel_size=NM).voxel_size == pytest.approx(NM)
    with pytest.raises(VolumeError, match=r"says voxel_size: \[40.0, 4.0, 5.0\].* says \[40.0, 4"):
        open_volume(str(tmp_path), voxel_size=(40.0, 4.0, 5.0))


@pytest.mark.parametrize("size", [(0.0, 4.0, 4.0), (math.nan, 4.0, 4.0)])
def test_scale_that_is_no_length_is_refused(tmp_path, size):
    path = hdf5(tmp_path)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["volumes/raw"].attrs["resolution"] = size
    with pytest.raises(VolumeError, match="which must be positive"):
        open_volume(path)


def test_scale_of_two_numbers_is_refused(tmp_path):
    path = hdf5(tmp_path)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["volumes/raw"].attrs["resolution"] = (4.0, 4.0)
    with pytest.raises(VolumeError, match="three numbers are expected"):
        open_volume(path)


# --- identity


def test_identity_survives_growth_and_tells_volumes_apart(tmp_path):
    array = zarr.open_array(str(zarr_v3(tmp_path)))
    before = open_volume(str(tmp_path / "v3")).identity
    array.resize((25, 30, 40))
    assert open_volume(str(tmp_path / "v3")).shape == (25, 30, 40)
    assert open_volume(str(tmp_path / "v3")).identity == before
    json.dumps(before)
    (tmp_path / "other").mkdir()
    assert open_volume(str(zarr_v3(tmp_path / "other"))).identity != before


@pytest.mark.parametrize("write", [hdf5, npy, npz, pages])
def test_identity_changes_with_the_file(tmp_path, write):
    url = str(write(tmp_path))
    before = open_volume(url).identity
    path = Path(url.partition(":")[0])
    assert open_volume(url).identity == before
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert open_volume(url).identity != before


@pytest.mark.parametrize("write", [zarr_v2, zarr_v3, n5])
def test_identity_tells_an_array_that_was_written_anew(tmp_path, write):
    url = str(write(tmp_path))
    before = open_volume(url).identity
    shutil.rmtree(url)
    again = str(write(tmp_path))
    assert again == url
    after = open_volume(url).identity
    assert after.keys() == before.keys()
    assert before["first_chunk"]["mtime_ns"] > 0
    assert after != before


def test_stack_may_grow_night_by_night(tmp_path):
    folder = sections(tmp_path)
    before = open_volume(str(folder)).identity
    tifffile.imwrite(folder / "wafer1_27.tif", RAW[0])
    grown = open_volume(str(folder))
    assert grown.shape == (21, 30, 40)
    assert grown.identity == before
