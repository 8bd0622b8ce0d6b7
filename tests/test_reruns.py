"""An output that is there already: continued, redone, made again or refused, and never mixed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from projects import STORED, Project, assert_failed
from results import assert_same, read_result


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
