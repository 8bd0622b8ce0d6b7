"""What goes wrong is an error that says what to do; what is half-written never looks whole.

After each error its cause is removed, and the same command must come to the
labels of a run that nothing happened to.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from projects import SHAPE, STORED, Project, assert_failed
from results import assert_same, read_result

import tasks.relabel
from pipeline.arrays import open_array
from pipeline.geometry import Box
from pipeline.volumes import open_volume
from tasks.demo.command import demo_config


def test_a_block_shape_that_does_not_divide_the_volume(project, expected):
    project.run(block=[13, 37, 29])
    assert_same(read_result(project.output), expected)


def replace_keeping_its_time(path, data):
    """As decay does, and a restore from a backup: the file is not one that was written anew."""
    stat = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("damage", ["a flipped byte", "truncated"])
def test_a_damaged_chunk_of_the_input(project, expected, damage):
    chunk = project.input / "c/0/0/0/0"
    whole = chunk.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    damaged = flipped if damage == "a flipped byte" else whole[:middle]
    replace_keeping_its_time(chunk, damaged)
    status, said = project("run")
    assert status == 1
    assert_failed(project, said, "segment/0.0.0: ", "The stored bytes are damaged: restore")
    assert "failed: segment/0.0.0, attempt 3" in project("status")[1]
    replace_keeping_its_time(chunk, whole)
    assert "segment: continues, 7 of 8 blocks are done" in project.run()
    assert_same(read_result(project.output), expected)
    assert "failed: segment" not in project("status")[1]


def test_affinities_that_are_not_a_number(begin, tmp_path, crop, expected):
    affinities = crop.astype(np.float32) / 255
    project = begin(tmp_path, affinities)
    first = Box((0, 0, 0), STORED)
    broken = affinities[(slice(None), *first.slices)].copy()
    broken[1, 3, 4, 5:8] = np.nan
    array = open_array(str(project.input))
    array.write(first, broken)
    status, said = project("run")
    assert status == 1
    assert_failed(project, said, "segment/0.0.0: ", "hold 3 values that are not a number", "mask")
    array.write(first, affinities[(slice(None), *first.slices)])
    project.run()
    assert_same(read_result(project.output), expected)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of some KiB, or makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kib):
        size = f"size={kib}k" + (",remount" if folder.is_mount() else "")
        command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a full disk needs the right to mount a tmpfs ({error})")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kib", [4, 24, 100, 600, 1600, 2000])
def test_a_full_disk(project, small_disk, expected, kib):
    """It fills up at once, while the run is set up, and in the middle of several steps."""
    disk = small_disk(kib)
    status, said = project("run", output=str(disk / "seg.zarr"))
    assert status in (1, 2)
    assert "The disk is full: free some space, then run again" in said
    status, said = project("status")
    assert "there is no run at" in said if status else not project.is_called_done()
    small_disk(100_000)
    project.run()
    assert_same(read_result(project.output), expected)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("missing.zarr/s0", "no volume is at"),
        ("s3://raphe-no-such-bucket/em.zarr/s0", "The server cannot be reached"),
        ("ftp://127.0.0.1/em.zarr", "is not one of file://, s3://, gs://, memory://"),
    ],
)
def test_an_input_that_cannot_be_read(project, monkeypatch, url, reason):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    status, said = project("run", affinities=url)
    assert status == 2
    assert url.split("/")[-1] in said
    assert reason in said
    assert not Path(project.output).exists()


def test_a_roi_outside_the_volume(project, expected):
    status, said = project("run", roi={"offset": [0, 0, 1], "shape": list(SHAPE)})
    assert status == 2
    assert "roi from (0, 0, 1) to (32, 96, 97) leaves the volume" in said
    assert "choose a roi inside" in said
    assert not Path(project.output).exists()
    project.run(roi={"offset": [0, 0, 0], "shape": list(SHAPE)})
    assert_same(read_result(project.output), expected)


def test_a_model_for_other_voxels(tmp_path):
    shipped = demo_config("unused", workers=1)
    raw = open_volume(shipped.raw).read(Box((0, 0, 0), (24, 24, 24)))
    np.save(tmp_path / "em.npy", raw)
    fields = {"raw": "em.npy", "model": shipped.model, "block": [24, 24, 24], "axes": "zyx"}
    project = Project(tmp_path, fields | {"output": "seg.zarr", "cluster": {"processes": False}})
    status, said = project("run", voxel_size=[40, 4, 4])
    assert status == 2
    assert "voxel size [40.0, 4.0, 4.0] nm is not the [10.0, 10.0, 10.0] nm" in said
    assert "Resample the raw volume" in said
    assert not Path(project.output).exists()
    project.run(voxel_size=[10, 10, 10])


def test_a_block_that_raises(project, expected, monkeypatch):
    whole = tasks.relabel.relabel_process

    def broken(params, block):
        if block.index == (1, 0, 1):
            raise ArithmeticError(f"no luck with {block.name}")
        return whole(params, block)

    with monkeypatch.context() as patched:
        patched.setattr("tasks.relabel.relabel_process", broken)
        status, said = project("run")
    assert status == 1
    assert_failed(project, said, "1 blocks failed", "relabel/1.0.1: ArithmeticError: no luck")
    _, shown = project("status")
    assert "failed: relabel/1.0.1, attempt 3" in shown
    assert "no luck with 1.0.1" in shown
    record = json.loads((Path(project.output) / "errors/relabel/1.0.1.json").read_bytes())
    assert "Traceback" in record["error"]
    assert "relabel: continues, 7 of 8 blocks are done" in project.run()
    assert_same(read_result(project.output), expected)
    assert "failed: relabel" not in project("status")[1]
