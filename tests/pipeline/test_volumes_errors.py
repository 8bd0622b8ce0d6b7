"""What cannot be read is named, with what to do about it."""

import json
import os

import numpy as np
import pytest
import tifffile
import zarr
from volume_writers import (
    RAW,
    SHAPE,
    compressed_pages,
    hdf5,
    n5,
    npy,
    npz,
    ome,
    pages,
    sections,
    zarr_v2,
    zarr_v3,
)

from pipeline.errors import VolumeError
from pipeline.geometry import KEY_LIMITS, Box
from pipeline.volumes import open_volume


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no volume is at .*nothing"),
        ("a.h5", r"there is no file .*a\.h5"),
        ("s3://bucket/a.h5:/raw", "single file on a remote store"),
        ("ftp://host/a", "scheme of 'ftp://host/a/?' is not one of"),
    ],
)
def test_missing_volumes_are_named(tmp_path, name, message):
    with pytest.raises(VolumeError, match=message):
        open_volume(name if "://" in name else str(tmp_path / name))


@pytest.mark.parametrize("write", [hdf5, npz])
def test_missing_member_is_refused_with_those_that_there_are(tmp_path, write):
    path, _, name = str(write(tmp_path)).partition(":/")
    with pytest.raises(VolumeError, match=f"no array 'gt' in .*:/{name}"):
        open_volume(f"{path}:/gt")


def test_one_of_several_members_is_not_guessed(tmp_path):
    path = npz(tmp_path).partition(":")[0]
    with pytest.raises(VolumeError, match=r"no single array.* a\.npz:/raw, .*|a\.npz:/other"):
        open_volume(path)


def test_group_without_image_is_refused(tmp_path):
    zarr.create_group(str(tmp_path / "a"))
    zarr.create_group(str(tmp_path / "b"), zarr_format=2)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/attributes.json").write_text('{"n5": "2.0.0"}')
    for name in "abc":
        with pytest.raises(VolumeError, match=r"is an? (zarr|N5) group, not an array"):
            open_volume(str(tmp_path / name))


def test_prefix_names_the_format_to_look_for(tmp_path):
    url = n5(tmp_path)
    assert open_volume(f"n5://{url}").format == "N5"
    with pytest.raises(VolumeError, match="no volume is at 'zarr://"):
        open_volume(f"zarr://{url}")


def test_relative_path_finds_the_group_around_the_working_directory(tmp_path, monkeypatch):
    ome(tmp_path, "0.5")
    monkeypatch.chdir(tmp_path / "scale")
    assert open_volume("1").voxel_size == pytest.approx((80.0, 8.0, 8.0))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        (".zattrs", {"multiscales": [{"axes": ["z"], "datasets": [{}]}]}, "multiscales"),
        (".zattrs", {"multiscales": [{"datasets": []}]}, "multiscales"),
        ("info", {"scales": []}, "info"),
        ("info", {"scales": [{"key": "a"}]}, "info"),
    ],
)
def test_malformed_metadata_is_named(tmp_path, name, content, part):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(VolumeError, match=rf"metadata \({part}\) of .* cannot be understood"):
        open_volume(str(tmp_path))


@pytest.mark.parametrize("attribute", ["resolution", "offsets"])
def test_malformed_attributes_are_named(tmp_path, attribute):
    array = zarr.open_array(str(zarr_v2(tmp_path)))
    array.attrs[attribute] = ["left", "right"]
    with pytest.raises(VolumeError, match=r"metadata \(.*\) of .*v2 cannot be understood"):
        open_volume(str(tmp_path / "v2"))


def test_metadata_that_is_not_json_is_named(tmp_path):
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(VolumeError, match=r"zarr\.json is not JSON"):
        open_volume(str(tmp_path))


@pytest.mark.parametrize("axis", range(3))
def test_volumes_too_large_for_keys_are_refused_with_axis_and_limit(tmp_path, axis):
    shape = [1, 1, 1]
    shape[axis] = KEY_LIMITS[axis] + 1
    url = str(tmp_path / "big")
    zarr.create_array(url, shape=shape, dtype="uint8", chunks=[1000 if n > 1 else 1 for n in shape])
    with pytest.raises(VolumeError, match=f"{shape[axis]} voxels along {'zyx'[axis]}, but at most"):
        open_volume(url)
    zarr.open_array(url).resize([min(n, m) for n, m in zip(shape, KEY_LIMITS, strict=True)])
    assert open_volume(url).shape[axis] == KEY_LIMITS[axis]


def test_volumes_without_voxels_are_refused(tmp_path):
    np.save(tmp_path / "none.npy", np.zeros((4, 0, 4), np.uint8))
    with pytest.raises(VolumeError, match="no voxels along y"):
        open_volume(str(tmp_path / "none.npy"))


@pytest.mark.parametrize("box", [Box((0, 0, 0), (21, 1, 1)), Box((-1, 0, 0), (1, 1, 1))])
def test_boxes_outside_are_refused(tmp_path, box):
    volume = open_volume(str(npy(tmp_path)))
    with pytest.raises(VolumeError, match=r"reaches outside .*a\.npy, which has \(20, 30, 40\)"):
        volume.read(box)


@pytest.mark.parametrize("dtype", ["complex64", "S3"])
def test_values_that_are_no_voxels_are_refused(tmp_path, dtype):
    with pytest.raises(VolumeError, match="which is no type of voxels"):
        open_volume(str(npy(tmp_path, RAW.astype(dtype))))


def damage(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(255 - value for value in content[middle : middle + 20])
    path.write_bytes(bytes(content))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


CHUNKS = {zarr_v3: "v3/c/0/0/0", zarr_v2: "v2/0.0.0", n5: "n5/0/0/0"}
FILES = {hdf5: "a.h5", npz: "a.npz", npy: "a.npy", compressed_pages: "b.tif", pages: "a.tif"}
CHECKED = (hdf5, npz, compressed_pages)
"""The other formats store noise as it is, and cannot notice that some of it has changed."""


@pytest.mark.parametrize(
    ("write", "harm"),
    [(write, truncate) for write in (*CHUNKS, *FILES)] + [(write, damage) for write in CHECKED],
)
def test_damage_is_an_error_that_names_the_volume(tmp_path, write, harm):
    url = str(write(tmp_path, RAW))
    harm(tmp_path / (CHUNKS | FILES)[write])
    with pytest.raises(VolumeError, match=r"(damaged|Error reading).*restore"):
        open_volume(url).read(Box((0, 0, 0), SHAPE))


@pytest.mark.parametrize("write", [hdf5, pages, compressed_pages])
def test_file_that_shrinks_while_open_is_an_error(tmp_path, write):
    url = str(write(tmp_path))
    volume = open_volume(url)
    truncate(tmp_path / FILES[write])
    with pytest.raises(VolumeError, match=r"cannot read Box\(.*bytes are damaged"):
        volume.read(Box((0, 0, 0), SHAPE))


# --- stacks of sections


def test_missing_sections_are_named(tmp_path):
    folder = sections(tmp_path)
    (folder / "wafer1_9.tif").unlink()
    (folder / "wafer1_12.tif").unlink()
    with pytest.raises(VolumeError, match=r"sections are missing in .*: 9, 12 \(2 in all\)"):
        open_volume(str(folder))


def test_two_sections_with_one_number_are_refused(tmp_path):
    folder = sections(tmp_path)
    tifffile.imwrite(folder / "wafer2_9.tif", RAW[0])
    with pytest.raises(VolumeError, match=r"number 9 .*wafer1_9\.tif, wafer2_9\.tif"):
        open_volume(str(folder))


def test_section_without_a_number_is_refused(tmp_path):
    folder = sections(tmp_path)
    tifffile.imwrite(folder / "overview.tif", RAW[0])
    with pytest.raises(VolumeError, match=r"overview\.tif has no number"):
        open_volume(str(folder))


def test_sections_must_be_alike(tmp_path):
    folder = sections(tmp_path)
    tifffile.imwrite(folder / "wafer1_9.tif", RAW[0, :5])
    volume = open_volume(str(folder))
    with pytest.raises(VolumeError, match=r"wafer1_9\.tif is uint8 of shape \(5, 40\)"):
        volume.read(Box((0, 0, 0), SHAPE))
    assert volume.read(Box((3, 0, 0), (1, 4, 4))).shape == (1, 4, 4)


def test_coloured_sections_are_refused(tmp_path):
    (tmp_path / "rgb").mkdir()
    tifffile.imwrite(tmp_path / "rgb/1.tif", np.stack([RAW[0]] * 3, axis=-1), photometric="rgb")
    with pytest.raises(VolumeError, match="sections must be single grey planes"):
        open_volume(str(tmp_path / "rgb"))
