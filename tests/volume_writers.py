"""One volume, written in every format by the format's own library."""

import h5py
import numpy as np
import tensorstore as ts
import tifffile
import zarr

from pipeline.geometry import Box
from pipeline.store import context, kvstore

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
