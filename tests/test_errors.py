"""What goes wrong is an error that says what to do; what is half-written never looks whole.

Everything goes through the command `raphe`, on a crop of real affinities. After
each error its cause is removed, and the same command must come to the labels of
a run that nothing happened to.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from results import assert_same, read_result, write_affinities

import tasks.relabel
from pipeline.arrays import open_array
from pipeline.cli import main
from pipeline.geometry import Box
from pipeline.volumes import open_volume
from tasks.demo.command import demo_config

SHAPE = (32, 96, 96)
STORED = (16, 48, 48)
"""Voxels of a stored chunk of the input, and of a block: eight of both."""


@dataclass
class Project:
    """A folder with an input and a configuration; `raphe` runs in it."""

    folder: Path
    fields: dict

    @property
    def output(self) -> str:
        return str(self.folder / self.fields["output"])

    @property
    def input(self) -> Path:
        return self.folder / self.fields["affinities"]

    def __call__(self, command: str, **changes) -> tuple[int, str]:
        """Exit status and everything that was printed; `changes` of the configuration stay."""
        self.fields |= changes
        argument = "raphe.yaml"
        (self.folder / argument).write_text(yaml.safe_dump(self.fields))
        if command == "status":
            argument = self.fields["output"]
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            result = CliRunner().invoke(main, [command, argument], env={"COLUMNS": "200"})
        finally:
            os.chdir(before)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    def run(self, **changes) -> str:
        """What a run that goes well prints."""
        status, said = self("run", **changes)
        assert status == 0, said
        return said

    def is_called_done(self) -> bool:
        status, said = self("status")
        assert status == 0, said
        rows = [line.split() for line in said.splitlines()]
        counts = [row[1:] for row in rows if len(row) == 3 and row[1].isdigit()]
        assert len(counts) >= 9, said
        return all(done == total for done, total in counts)


@pytest.fixture(scope="session")
def crop(demo_affinities):
    box = Box((30, 70, 80), SHAPE)
    return open_volume(demo_affinities).read(box)


@pytest.fixture
def begin(crop):
    """Begin a project in a folder, with the crop or with other affinities."""

    def begin(folder, affinities=crop, **fields):
        write_affinities(str(folder / "em.zarr/s0"), affinities, STORED)
        given = {
            "affinities": "em.zarr/s0",
            "output": "seg.zarr",
            "block": list(STORED),
            "cluster": {"workers": 2, "processes": False},
        }
        return Project(folder, given | fields)

    return begin


@pytest.fixture
def project(begin, tmp_path):
    return begin(tmp_path)


@pytest.fixture(scope="session")
def expected(crop, tmp_path_factory):
    """The result of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("expected")
    write_affinities(str(folder / "em.zarr/s0"), crop, SHAPE)
    fields = {"affinities": "em.zarr/s0", "output": "seg.zarr", "block": list(SHAPE)}
    project = Project(folder, fields | {"cluster": {"workers": 1, "processes": False}})
    project.run()
    result = read_result(project.output)
    assert len(result.segments["id"]) > 10
    return result


def assert_failed(project, said, *parts):
    """A run that could not finish: named, with a remedy, open for the next run, and no whole."""
    for part in (*parts, "run the same command again"):
        assert part in said
    assert not project.is_called_done()


def test_a_block_shape_that_does_not_divide_the_volume(project, expected):
    project.run(block=[13, 37, 29])
    assert_same(read_result(project.output), expected)


@pytest.mark.parametrize("damage", ["a flipped byte", "truncated"])
def test_a_damaged_chunk_of_the_input(project, expected, damage):
    chunk = project.input / "c/0/0/0/0"
    whole = chunk.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    chunk.write_bytes(flipped if damage == "a flipped byte" else whole[:middle])
    status, said = project("run")
    assert status == 1
    assert_failed(project, said, "segment/0.0.0: ", "The stored bytes are damaged: restore")
    assert "failed: segment/0.0.0, attempt 3" in project("status")[1]
    chunk.write_bytes(whole)
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


def test_an_output_of_another_input(project, begin, crop, expected):
    project.run()
    other = begin(project.folder / "other", crop[:, ::-1].copy())
    status, said = project("run", affinities="other/em.zarr/s0")
    assert status == 2
    assert "seg.zarr' was made with another input" in said
    assert "Choose another output, or delete this one" in said
    assert_same(read_result(project.output), expected)  # untouched
    assert not Path(other.output).exists()
    assert "everything is done already" in project.run(affinities="em.zarr/s0")
    project.run(affinities="other/em.zarr/s0", output="other.zarr")
    assert not np.array_equal(read_result(project.output).labels, expected.labels)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"block": [16, 48, 96]}, "was made with another block: [16, 48, 48], now [16, 48, 96]"),
        ({"roi": {"offset": [0, 0, 0], "shape": [32, 96, 48]}}, "what lies outside would remain"),
    ],
)
def test_an_output_of_a_configuration_that_cannot_be_continued(project, expected, change, reason):
    project.run()
    status, said = project("run", **change)
    assert status == 2
    assert reason in said
    assert "Choose another output, or delete this one" in said
    assert_same(read_result(project.output), expected)
    before = {name: project.fields.pop(name) for name in change}
    project.fields |= {"block": list(STORED)}
    assert "everything is done already" in project.run()
    project.run(**before, output="other.zarr")


@pytest.mark.parametrize(
    ("change", "first", "reason"),
    [
        ({"segment": {"threshold": 0.8}}, "merge-0", "segment.threshold changed from 0.55 to 0.8"),
        ({"relabel": "consecutive"}, "relabel", 'relabel changed from "packed" to "consecutive"'),
    ],
)
def test_a_changed_parameter_changes_the_output_and_says_why(
    project, expected, tmp_path_factory, change, first, reason
):
    project.run()
    said = project.run(**change)
    assert f"{first}: 8 blocks are redone: {reason}" in said
    assert "segment: " not in said
    changed = read_result(project.output)
    assert not np.array_equal(changed.labels, expected.labels)
    project.run(output="scratch.zarr")
    assert_same(changed, read_result(project.output))


@pytest.mark.parametrize("lost", ["labels", "labels/s0/c/1/0/1", "fragments", "tables/merge"])
def test_deleted_outputs_are_written_again(project, expected, lost):
    project.run()
    target = Path(project.output) / lost
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    assert "gone" in project.run()
    assert_same(read_result(project.output), expected)


def test_two_acquisitions_of_the_same_name_in_one_working_directory(
    begin, tmp_path, crop, expected
):
    flipped = crop[:, :, ::-1].copy()
    begin(tmp_path / "monday"), begin(tmp_path / "tuesday", flipped)
    fields = {"block": list(STORED), "cluster": {"workers": 1, "processes": False}}
    days = {
        day: Project(
            tmp_path, {"affinities": f"{day}/em.zarr/s0", "output": f"{day}/seg.zarr", **fields}
        )
        for day in ("monday", "tuesday")
    }
    for each in days.values():
        each.run()
    monday, tuesday = (read_result(each.output) for each in days.values())
    assert_same(monday, expected)
    alone = begin(tmp_path / "alone", flipped)
    alone.run()
    assert_same(tuesday, read_result(alone.output))


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


@pytest.mark.parametrize("damage", ["a flipped byte", "truncated", "empty"])
def test_a_damaged_table(project, expected, damage):
    project.run()
    shutil.rmtree(Path(project.output) / "labels")
    table = Path(project.output) / "tables/labels/0.1.0.arrow"
    whole = table.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    damaged = {"a flipped byte": flipped, "truncated": whole[:middle], "empty": b""}
    table.write_bytes(damaged[damage])
    status, said = project("run")
    assert status == 1
    assert_failed(project, said, "relabel/0.1.0: ", "table 'labels/0.1.0' is damaged", "Delete it")
    table.unlink()
    assert "assign-0: 8 blocks are redone: 1 objects of tables/labels/ are gone" in project.run()
    assert_same(read_result(project.output), expected)


@pytest.mark.parametrize("place", [0.02, 0.98])
def test_a_damaged_segment_table(project, expected, place):
    """Ranks come from it: the first to notice is the one who makes labels consecutive."""
    project.run()
    table = Path(project.output) / "tables/segments/0000000.parquet"
    whole = table.read_bytes()
    at = int(place * len(whole))
    table.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    status, said = project("run", relabel="consecutive")
    assert status in (1, 2)
    assert "segment table 'tables/segments/0000000.parquet' under 'seg.zarr' is damaged" in said
    assert "Delete it; the next run makes it again" in said
    assert not project.is_called_done()
    table.unlink()
    assert "segments: 2 blocks are redone: 1 objects of tables/segments/ are gone" in project.run()
    ids = expected.segments["id"]
    ranks = np.searchsorted(ids, expected.labels) + (expected.labels > 0)
    np.testing.assert_array_equal(read_result(project.output).labels, ranks)
