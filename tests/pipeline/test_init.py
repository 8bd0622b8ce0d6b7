import numpy as np
import pytest
import yaml

from pipeline.arrays import create_array
from pipeline.config import Segment, load
from pipeline.errors import ConfigError, VolumeError
from pipeline.init import choose_block, write_configuration


@pytest.fixture
def volume(tmp_path):
    def create(**fields):
        url = str(tmp_path / "volume.zarr/raw/s0")
        given = {"channels": None, "attributes": {}} | fields
        create_array(
            url,
            shape=(20, 30, 40),
            dtype="uint8",
            block=(16, 16, 16),
            voxel_size=(40.0, 4.0, 4.0),
            translation=(0.0, 0.0, 0.0),
            kind="image",
            **given,
        )
        return url

    return create


def write(raw, output, voxel_size=None, axes=None, force=False):
    return write_configuration(raw, output, voxel_size=voxel_size, axes=axes, force=force)


def test_raw_data_gets_a_configuration_that_can_be_loaded(volume, tmp_path):
    url, output = volume(), str(tmp_path / "c.yaml")
    assert write(url, output) == f"wrote {output}; look at it, then: raphe plan {output}"
    config = load(output)
    assert (config.raw, config.affinities, config.model) == (url, None, "fib25-affinities")
    assert config.voxel_size is None
    # What is written would replace the model's defaults.
    assert "segment" not in config.model_fields_set
    text = (tmp_path / "c.yaml").read_text()
    assert "# zarr v3, [20, 30, 40] voxels (z y x), uint8\n# axes zyx (metadata)" in text
    assert "# voxel size [40, 4, 4] nm (z y x), from the volume" in text
    told = "\n".join(
        line.removeprefix("# ") for line in text.splitlines() if "found it" not in line
    )
    written = yaml.safe_load("segment:" + told.partition("\nsegment:")[2].partition("\nrelabel")[0])
    assert Segment.model_validate(written["segment"]) == Segment()


def test_channels_mean_affinities_and_their_offsets_come_from_the_volume(volume, tmp_path):
    offsets = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    url, output = volume(channels=3, attributes={"offsets": offsets}), str(tmp_path / "c.yaml")
    write(url, output)
    config = load(output)
    assert (config.raw, config.affinities, config.offsets) == (None, url, None)
    assert config.segment == Segment()
    assert "threshold" in config.segment.model_fields_set


def test_what_the_volume_does_not_say_is_taken_from_the_user_or_left_open(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8, 8), np.uint8))
    raw, output = str(tmp_path / "a.npy"), str(tmp_path / "c.yaml")
    with pytest.raises(VolumeError, match="nothing says which axis is which"):
        write(raw, output)
    assert "after adding the voxel size" in write(raw, output, axes="czyx")
    assert "# voxel_size: [10, 10, 10]  # nm, z y x; the volume carries none" in (
        tmp_path / "c.yaml"
    ).read_text(encoding="utf-8")
    write(raw, output, axes="czyx", voxel_size=(40.0, 4.6, 4.6), force=True)
    config = load(output)
    assert (config.axes, config.voxel_size) == ("czyx", (40.0, 4.6, 4.6))
    assert config.offsets == [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]


@pytest.mark.parametrize("name", ["a b #1", "1: x", "'q' \"r\"", "- é", "100%", "~"])
def test_names_that_mean_something_in_yaml_survive(tmp_path, name):
    (tmp_path / name).mkdir()
    raw, output = str(tmp_path / name / "a.npy"), str(tmp_path / "c.yaml")
    np.save(raw, np.zeros((8, 8, 8), np.uint8))
    size = (1 / 3, 10.1234567, 4.0)
    write(raw, output, voxel_size=size)
    assert load(output).raw == raw
    assert load(output).voxel_size == pytest.approx(size, rel=1e-14)


def test_a_file_that_exists_is_only_replaced_by_force(volume, tmp_path):
    url, output = volume(), str(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"c.yaml' exists; give another name with -o, or --force"):
        write(url, output)
    assert (tmp_path / "c.yaml").read_text() == "mine"
    write(url, output, force=True)
    assert load(output).raw == url


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 5000, 5000), (300, 300, 300), (4000, 90, 4000)])
def test_blocks_have_at_most_256_cubed_voxels(shape):
    block = choose_block(shape)
    assert block[0] * block[1] * block[2] <= 256**3
    assert all(b % 32 == 0 and b < n + 32 for b, n in zip(block, shape, strict=True))
