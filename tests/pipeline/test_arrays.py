"""Blocks are whole shards: one object each, written once, old or new and nothing between."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import zarr

from pipeline.arrays import create_array, open_array
from pipeline.errors import VolumeError
from pipeline.geometry import Box, Grid
from pipeline.sharding import inner_side
from pipeline.store import open_store
from pipeline.volumes import open_volume

SHAPE, BLOCK = (20, 30, 40), (16, 16, 16)
WHOLE = Box((0, 0, 0), SHAPE)


def create(url, **changes):
    settings = {
        "shape": SHAPE,
        "dtype": "uint64",
        "block": BLOCK,
        "voxel_size": (40.0, 4.0, 4.0),
        "translation": (80.0, 0.0, 0.0),
        "kind": "labels",
    }
    create_array(url, **(settings | changes))


def labels(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(1, 9, shape).astype(np.uint64)


def objects(url):
    return [name for name in open_store(url).list() if name != "zarr.json"]


def traffic():
    """Count of object reads and writes of this process on files."""
    metrics = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/")
    counts = {m["name"].rpartition("/")[2]: m["values"][0] for m in metrics}
    return {
        name: counts[name].get("value", counts[name].get("count")) for name in ("read", "write")
    }


@pytest.fixture(params=["file", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def output(request, tmp_path):
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    return {"file": str(tmp_path), "memory": f"memory://{tmp_path.name}"}[request.param]


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64", "float32"])
def test_what_is_written_by_blocks_is_read_back(output, channels, dtype):
    url = f"{output}/labels/s0"
    create(url, dtype=dtype, channels=channels)
    array = open_array(url)
    lead = () if channels is None else (channels,)
    data = labels((*lead, *SHAPE)).astype(dtype)
    for block in Grid(WHOLE, BLOCK):
        array.write(block.box, data[(..., *block.box.slices)])
    assert np.array_equal(open_array(url).read(WHOLE), data)
    assert len(objects(url)) == len(Grid(WHOLE, BLOCK))
    box = Box((3, 9, 14), (9, 17, 5))
    assert np.array_equal(array.read(box), data[(..., *box.slices)])
    assert (array.shape, array.channels, array.dtype) == (SHAPE, channels, np.dtype(dtype))


@pytest.mark.parametrize("offset", [(0, 0, 0), (16, 16, 32)], ids=["whole", "clipped"])
def test_block_is_written_once_and_nothing_is_read_for_it(tmp_path, offset):
    url = f"{tmp_path}/labels/s0"
    create(url)
    array = open_array(url)
    box = Box(offset, BLOCK).intersect(WHOLE)
    for seed in (1, 2):
        before = traffic()
        array.write(box, labels(box.shape, seed))
        assert traffic() == {"read": before["read"], "write": before["write"] + 1}
        assert len(objects(url)) == 1
    assert np.array_equal(array.read(box), labels(box.shape, 2))


def test_blocks_of_zeros_need_no_object_and_replace_an_older_one(output):
    url = f"{output}/labels/s0"
    create(url)
    array = open_array(url)
    box = Box((0, 0, 0), BLOCK)
    array.write(box, labels(BLOCK))
    array.write(box, np.zeros(BLOCK, np.uint64))
    assert objects(url) == []
    assert not array.read(WHOLE).any()


def test_block_clipped_to_the_region_replaces_its_whole_shard(output):
    url = f"{output}/labels/s0"
    create(url)
    array = open_array(url)
    array.write(Box((0, 0, 0), BLOCK), labels(BLOCK))
    part = Box((4, 5, 6), (12, 11, 2))
    array.write(part, labels(part.shape, 1))
    expected = np.zeros(SHAPE, np.uint64)
    expected[part.slices] = labels(part.shape, 1)
    assert np.array_equal(array.read(WHOLE), expected)
    assert len(objects(url)) == 1


def test_several_whole_shards_may_be_written_at_once(tmp_path):
    url = f"{tmp_path}/labels/s0"
    create(url)
    open_array(url).write(WHOLE, labels())
    assert np.array_equal(open_array(url).read(WHOLE), labels())
    assert len(objects(url)) == 2 * 2 * 3


@pytest.mark.parametrize(
    "box",
    [
        Box((8, 0, 0), (12, 16, 16)),
        Box((0, 0, 0), (20, 30, 39)),
        Box((0, 0, 0), (16, 16, 48)),
        Box((0, 0, 0), (0, 16, 16)),
    ],
    ids=["offset", "short", "outside", "empty"],
)
def test_boxes_that_cut_through_blocks_are_refused(tmp_path, box):
    create(f"{tmp_path}/labels/s0")
    array = open_array(f"{tmp_path}/labels/s0")
    with pytest.raises(VolumeError, match=r"not made of whole blocks of \(16, 16, 16\) voxels"):
        array.write(box, np.ones(box.shape, np.uint64))
    assert objects(array.url) == []


@pytest.mark.parametrize("data", [np.ones(BLOCK, np.uint32), np.ones((1, *BLOCK), np.uint64)])
def test_data_of_another_dtype_or_shape_is_refused(tmp_path, data):
    create(f"{tmp_path}/labels/s0")
    with pytest.raises(VolumeError, match=r"cannot write .*: uint64 of shape \(16, 16, 16\) is"):
        open_array(f"{tmp_path}/labels/s0").write(Box((0, 0, 0), BLOCK), data)


def test_reading_outside_is_refused(tmp_path):
    create(f"{tmp_path}/labels/s0")
    with pytest.raises(VolumeError, match=r"is not inside .* whose shape is \(20, 30, 40\)"):
        open_array(f"{tmp_path}/labels/s0").read(Box((0, 0, 0), (21, 1, 1)))


@pytest.mark.parametrize(("side", "inner"), [(256, 64), (64, 64), (250, 50), (127, 127), (10, 10)])
def test_inner_chunks_divide_the_shard(side, inner):
    assert inner_side(side) == inner


# --- creation


def test_creating_twice_changes_nothing(output):
    create(f"{output}/labels/s0")
    store = open_store(output)
    before = {name: store.read(name) for name in store.list()}
    create(f"{output}/labels/s0")
    assert {name: store.read(name) for name in store.list()} == before


def create_level(url, level):
    create(f"{url}/labels/s{level}", voxel_size=(40.0, 4.0 * 2**level, 4.0 * 2**level))


def test_processes_may_create_levels_at_once(tmp_path):
    tasks = [(str(tmp_path), level) for level in (3, 0, 2, 1)] * 3
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(create_level, tasks)
    group = json.loads((tmp_path / "labels/zarr.json").read_text())
    datasets = group["attributes"]["ome"]["multiscales"][0]["datasets"]
    assert [dataset["path"] for dataset in datasets] == ["s0", "s1", "s2", "s3"]


def test_array_grows_and_keeps_its_voxels(output):
    url = f"{output}/labels/s0"
    create(url)
    open_array(url).write(WHOLE, labels())
    create(url, shape=(40, 30, 41))
    grown = open_array(url)
    assert grown.shape == (40, 30, 41)
    assert np.array_equal(grown.read(WHOLE), labels())
    top = Box((16, 0, 0), (16, 16, 16))
    grown.write(top, labels(top.shape, 1))
    assert np.array_equal(grown.read(top), labels(top.shape, 1))


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"shape": (20, 30, 39)}, r"its shape is \[20, 30, 40\], now asked for is \[20, 30, 39\]"),
        ({"dtype": "uint32"}, r"its data_type is uint64, now asked for is uint32"),
        ({"block": (16, 16, 8)}, r"\[16, 16, 16\].*now asked for is .*\[16, 16, 8\]"),
        ({"channels": 3}, r"its shape is \[20, 30, 40\], now asked for is \[3, 20, 30, 40\]"),
        ({"attributes": {"scale": 2}}, r"its attributes is {}, now asked for is {'scale': 2}"),
        ({"voxel_size": (40, 4, 5)}, r"\[40.0, 4.0, 4.0\].*now asked for is .*\[40.0, 4.0, 5.0\]"),
    ],
)
def test_array_of_another_configuration_is_refused_with_both_values(tmp_path, changes, values):
    url = f"{tmp_path}/labels/s0"
    create(url)
    with pytest.raises(VolumeError, match=f"another configuration: .*{values}.*another output"):
        create(url, **changes)
    assert open_array(url).shape == SHAPE


def test_missing_array_is_named(tmp_path):
    with pytest.raises(VolumeError, match=r"there is no array at .*labels/s0"):
        open_array(f"{tmp_path}/labels/s0")


def test_array_of_somebody_else_is_not_written_to(tmp_path):
    zarr.create_array(str(tmp_path / "s0"), shape=(8, 8, 8), dtype="uint64", chunks=(8, 8, 8))
    with pytest.raises(VolumeError, match="has no shards, so it was not made by Raphe"):
        open_array(str(tmp_path / "s0"))


# --- as others see it


def test_zarr_python_reads_arrays_and_hierarchy(tmp_path):
    offsets = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    create(
        f"{tmp_path}/affinities/s0",
        dtype="uint8",
        channels=3,
        attributes={"offsets": offsets},
        kind="image",
    )
    data = labels((3, *SHAPE)).astype(np.uint8)
    open_array(f"{tmp_path}/affinities/s0").write(WHOLE, data)
    array = zarr.open_group(str(tmp_path), mode="r")["affinities/s0"]
    assert np.array_equal(array[:], data)
    assert array.attrs["offsets"] == offsets
    assert array.metadata.dimension_names == ("c", "z", "y", "x")
    assert open_volume(f"{tmp_path}/affinities").offsets == [tuple(o) for o in offsets]


def test_ome_metadata_has_axes_units_scale_and_translation(output):
    create(f"{output}/labels/s1", voxel_size=(40.0, 8.0, 8.0), translation=(80.0, 2.0, 2.0))
    create(f"{output}/labels/s0")
    group = json.loads(open_store(f"{output}/labels").read("zarr.json"))
    assert json.loads(open_store(output).read("zarr.json"))["node_type"] == "group"
    ome = group["attributes"]["ome"]
    assert ome["version"] == "0.5"
    assert "image-label" in ome
    (image,) = ome["multiscales"]
    assert image["axes"] == [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    assert [d["path"] for d in image["datasets"]] == ["s0", "s1"]
    assert image["datasets"][1]["coordinateTransformations"] == [
        {"type": "scale", "scale": [40.0, 8.0, 8.0]},
        {"type": "translation", "translation": [80.0, 2.0, 2.0]},
    ]
    volume = open_volume(f"{output}/labels/s1")
    assert volume.voxel_size == (40.0, 8.0, 8.0)
    assert volume.translation == (80.0, 2.0, 2.0)


# --- accidents


def test_damaged_shard_is_an_error_that_names_it(tmp_path):
    url = f"{tmp_path}/affinities/s0"
    create(url, dtype="uint8", kind="image", block=(20, 30, 40))
    noise = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    open_array(url).write(WHOLE, noise)
    shard = tmp_path / "affinities/s0/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(VolumeError, match=r"cannot read Box.*affinities/s0: .*bytes are damaged"):
        open_array(url).read(WHOLE)
    shard.write_bytes(bytes(content[:-100]))
    with pytest.raises(VolumeError, match=r"cannot read Box.*affinities/s0: .*bytes are damaged"):
        open_array(url).read(WHOLE)


WRITER = """
import sys
import numpy as np
from pipeline.arrays import open_array
from pipeline.geometry import Box
array = open_array(sys.argv[1])
box = Box((0, 0, 0), array.block)
noise = np.random.default_rng(0).integers(0, 1 << 60, array.block).astype(np.uint64)
print("ready", flush=True)
while True:
    array.write(box, noise)
    array.write(box, noise >> np.uint64(58))
"""


def test_killed_writer_leaves_the_old_or_the_new_block(tmp_path):
    url, block = f"{tmp_path}/labels/s0", (64, 64, 64)
    create(url, shape=block, block=block)
    array = open_array(url)
    noise = np.random.default_rng(0).integers(0, 1 << 60, block).astype(np.uint64)
    for attempt in range(4):
        command = [sys.executable, "-c", WRITER, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(0.05 + 0.013 * attempt)
            os.kill(writer.pid, signal.SIGKILL)
        found = array.read(Box((0, 0, 0), block))
        assert any(np.array_equal(found, kind) for kind in (noise, noise >> 58, 0 * noise))
    array.write(Box((0, 0, 0), block), noise >> 59)
    assert np.array_equal(array.read(Box((0, 0, 0), block)), noise >> 59)
    assert objects(url) == ["c/0/0/0"]
    assert Path(f"{url}/c/0/0/0").is_file()
