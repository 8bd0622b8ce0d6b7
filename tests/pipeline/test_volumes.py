"""Every format, written by its own library, opens as the same voxels and nanometres."""

import json
import math
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import VolumeError
from pipeline.geometry import KEY_LIMITS, Box
from pipeline.store import context, kvstore, open_store
from pipeline.volumes import open_volume

SHAPE = (20, 30, 40)
RAW = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
BOX = Box((3, 4, 5), (10, 11, 12))
NM = (40.0, 4.0, 4.0)


def through_tensorstore(driver, url, values, **spec):
    array = ts.open(
        {"driver": driver, "kvstore": kvstore(url), **spec},
        create=True,
        context=context(),
        dtype=values.dtype.name,
        shape=values.shape,
    ).result()
    array.write(values).result()


def precomputed(url, values, resolution=(4, 4, 40), offset=(0, 0, 0)):
    channels = 1 if values.ndim == 3 else values.shape[0]
    stored = values.reshape(channels, *values.shape[-3:]).T
    scale = {
        "resolution": resolution,
        "voxel_offset": offset,
        "size": stored.shape[:3],
        "encoding": "raw",
        "chunk_size": [16, 16, 16],
    }
    form = {"type": "image", "data_type": values.dtype.name, "num_channels": channels}
    ts.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": kvstore(url),
            "scale_metadata": scale,
            "multiscale_metadata": form,
        },
        create=True,
        context=context(),
    ).result().write(stored).result()


def zarr_v3(root, values=RAW):
    axes = ["c", "z", "y", "x"][-values.ndim :]
    zarr.create_array(str(root / "v3"), data=values, chunks="auto", dimension_names=axes)
    return root / "v3"


def zarr_v2(root, values=RAW):
    array = zarr.create_array(str(root / "v2"), data=values, chunks="auto", zarr_format=2)
    array.attrs["axis_names"] = ["c^", "z", "y", "x"][-values.ndim :]
    return root / "v2"


def n5(root, values=RAW):
    axes = ["x", "y", "z", "c"][: values.ndim]
    through_tensorstore("n5", str(root / "n5"), values.T, metadata={"axes": axes})
    return root / "n5"


def neuroglancer(root, values=RAW):
    precomputed(str(root / "precomputed"), values)
    return root / "precomputed"


def hdf5(root, values=RAW):
    with h5py.File(root / "a.h5", "w") as file:
        data = file.create_dataset("volumes/raw", data=values, chunks=True, compression="gzip")
        for dimension, name in zip(data.dims, "czyx"[-values.ndim :], strict=True):
            dimension.label = name
    return f"{root / 'a.h5'}:/volumes/raw"


def npy(root, values=RAW):
    np.save(root / "a.npy", values)
    return root / "a.npy"


def npz(root, values=RAW):
    np.savez_compressed(root / "a.npz", raw=values, other=values[:1])
    return f"{root / 'a.npz'}:/raw"


def pages(root, values=RAW):
    tifffile.imwrite(root / "a.tif", values, photometric="minisblack")
    return root / "a.tif"


def compressed_pages(root, values=RAW):
    tifffile.imwrite(root / "b.tif", values, photometric="minisblack", compression="zlib")
    return root / "b.tif"


def imagej(root, values=RAW):
    tifffile.imwrite(root / "c.tiff", values, imagej=True, metadata={"axes": "ZYX"})
    return root / "c.tiff"


def sections(root, values=RAW):
    (root / "stack").mkdir()
    for z, plane in enumerate(values):
        # Sorted by name, 10 would come before 7.
        tifffile.imwrite(root / "stack" / f"wafer1_{z + 7}.tif", plane)
    return root / "stack"


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


# --- axes


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


def ome(root, version, unit="micrometer", axes="tczyx"):
    """A multiscale group with scale and translation at both places where they may be."""
    group = zarr.create_group(str(root), zarr_format=2 if version == "0.4" else 3)
    shape = [1] * (len(axes) - 3)
    for level, step in enumerate((1, 2)):
        values = RAW[::step, ::step, ::step]
        group.create_array(f"scale/{level}", data=values.reshape(*shape, *values.shape))
    units = {} if unit is None else {"unit": unit}
    datasets = [
        {
            "path": f"scale/{level}",
            "coordinateTransformations": [
                {"type": "scale", "scale": [*shape, 20 * step, 2 * step, 2 * step]},
                {"type": "translation", "translation": [0 * n for n in shape] + [5, 6, 7]},
            ],
        }
        for level, step in enumerate((1, 2))
    ]
    image = {
        "axes": [
            {"name": n, "type": "space", **units} if n in "zyx" else {"name": n} for n in axes
        ],
        "datasets": datasets,
        "coordinateTransformations": [{"type": "scale", "scale": [*shape, 0.002, 0.002, 0.002]}],
    }
    if version == "0.4":
        group.attrs["multiscales"] = [image | {"version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}


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


def test_stack_may_grow_night_by_night(tmp_path):
    folder = sections(tmp_path)
    before = open_volume(str(folder)).identity
    tifffile.imwrite(folder / "wafer1_27.tif", RAW[0])
    grown = open_volume(str(folder))
    assert grown.shape == (21, 30, 40)
    assert grown.identity == before


# --- what cannot be read


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
