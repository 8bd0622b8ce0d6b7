"""What is wrong with the input is found before anything runs."""

import numpy as np
import pytest
import zarr

from pipeline.config import Config
from pipeline.errors import ConfigError, VolumeError
from pipeline.job import make_job
from pipeline.run import run


@pytest.fixture
def volume(tmp_path):
    path = tmp_path / "affinities.npy"
    np.save(path, np.zeros((3, 8, 8, 8), np.uint8))
    return str(path)


def config(volume, tmp_path, **fields):
    return Config(
        affinities=volume,
        axes="czyx",
        offsets=[(-1, 0, 0), (0, -1, 0), (0, 0, -1)],
        output=str(tmp_path / "out"),
        **({"voxel_size": (10.0, 10.0, 10.0)} | fields),
    )


def test_a_region_outside_the_volume_is_refused(volume, tmp_path):
    roi = {"offset": (0, 4, 0), "shape": (8, 8, 8)}
    with pytest.raises(ConfigError, match=r"roi from \(0, 4, 0\) to \(8, 12, 8\) leaves the vol"):
        make_job(config(volume, tmp_path, roi=roi))


def test_a_missing_voxel_size_is_refused(volume, tmp_path):
    with pytest.raises(ConfigError, match=r"carries no voxel size; add voxel_size: \[z, y, x\]"):
        make_job(config(volume, tmp_path, voxel_size=None))


def test_a_mask_of_another_shape_is_refused(volume, tmp_path):
    np.save(tmp_path / "mask.npy", np.ones((8, 8, 7), np.uint8))
    with pytest.raises(ConfigError, match=r"has the shape \(8, 8, 7\), the input \(8, 8, 8\)"):
        make_job(config(volume, tmp_path, mask=str(tmp_path / "mask.npy")))


def test_a_mask_with_channels_is_refused(volume, tmp_path):
    mask = str(tmp_path / "mask.zarr")
    zarr.create_array(mask, shape=(3, 8, 8, 8), dtype="uint8", dimension_names=list("czyx"))
    with pytest.raises(ConfigError, match=r"the shape \(8, 8, 8\) and 3 channels, .* without cha"):
        make_job(config(volume, tmp_path, mask=mask))


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan")])
def test_a_voxel_size_that_is_not_positive_is_refused(volume, tmp_path, size):
    with pytest.raises(VolumeError, match=r"the configuration gives a voxel size of .* positive"):
        make_job(config(volume, tmp_path, voxel_size=(10.0, size, 10.0)))


def test_an_output_that_is_something_else_is_left_alone(volume, tmp_path):
    group = tmp_path / "out"
    zarr.open_group(group, mode="w", zarr_format=2).attrs["multiscales"] = []
    with pytest.raises(ConfigError, match=r"out' is a zarr v2 group already, .* another output"):
        run(config(volume, tmp_path))
    assert {each.name for each in group.iterdir()} == {".zgroup", ".zattrs"}
    zarr.create_array(group, shape=(4, 4, 4), dtype="uint8", overwrite=True)
    with pytest.raises(ConfigError, match="is a zarr v3 array already"):
        run(config(volume, tmp_path))


def test_the_mask_is_part_of_what_a_result_depends_on(volume, tmp_path):
    np.save(tmp_path / "mask.npy", np.ones((8, 8, 8), np.uint8))
    without = make_job(config(volume, tmp_path))
    with_mask = make_job(config(volume, tmp_path, mask=str(tmp_path / "mask.npy")))
    assert without.identity["input"] == with_mask.identity["input"]
    assert without.identity != with_mask.identity


def test_blocks_that_need_more_memory_than_there_is_are_refused_before_anything_runs(
    volume, tmp_path
):
    with pytest.raises(ConfigError, match=r"a block of step '.*' needs .* and a worker has"):
        run(config(volume, tmp_path, cluster={"memory_gib": 0.0001}))
    assert not (tmp_path / "out").exists()
