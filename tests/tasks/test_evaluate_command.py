"""`raphe evaluate`: what a user types, and what it prints."""

import json

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from skimage.metrics import adapted_rand_error, variation_of_information

from pipeline.errors import VolumeError
from tasks.evaluate.command import evaluate

RNG = np.random.default_rng(11)
TRUTH = RNG.integers(0, 5, (9, 14, 11)).repeat(2, axis=2).astype(np.uint32)
LABELS = np.where(RNG.random(TRUTH.shape) < 0.1, 9, TRUTH + 1).astype(np.uint64)


@pytest.fixture
def volumes(tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "truth.npy", TRUTH)
    return str(tmp_path / "labels.npy"), str(tmp_path / "truth.npy")


def scores(*arguments):
    result = CliRunner().invoke(
        evaluate, [*arguments, "--json", "--workers", "1"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def expected(truth, labels):
    truth, labels = truth.astype(int), labels.astype(int)
    split, merge = variation_of_information(truth, labels, ignore_labels=[0])
    return split, merge, adapted_rand_error(truth, labels, ignore_labels=[0])[0]


def found(result):
    return result["voi_split"], result["voi_merge"], result["adapted_rand_error"]


@pytest.mark.parametrize("block", ["256,256,256", "4,5,6", "9,1,22"])
def test_equal_to_scikit_image_for_every_block(volumes, block):
    assert found(scores(*volumes, "--block", block)) == pytest.approx(expected(TRUTH, LABELS))


def test_workers_give_the_same(volumes):
    arguments = [*volumes, "--block", "5,8,12", "--json", "--workers"]
    results = [
        CliRunner().invoke(evaluate, [*arguments, n], catch_exceptions=False).output
        for n in ("1", "2")
    ]
    assert json.loads(results[0]) == json.loads(results[1])


def test_a_region(volumes):
    result = scores(*volumes, "--roi", "2:7,3:14,0:10", "--block", "4,4,4")
    inside = np.s_[2:7, 3:14, 0:10]
    assert found(result) == pytest.approx(expected(TRUTH[inside], LABELS[inside]))


def test_a_mask(volumes, tmp_path):
    mask = RNG.random(TRUTH.shape) < 0.5
    np.save(tmp_path / "mask.npy", mask.astype(np.uint8))
    result = scores(*volumes, "--mask", str(tmp_path / "mask.npy"), "--block", "4,4,4")
    assert found(result) == pytest.approx(expected(np.where(mask, TRUTH, 0), LABELS))
    assert result["n_voxels"] == ((TRUTH != 0) & mask).sum()


def test_a_truth_that_begins_elsewhere(volumes, tmp_path):
    np.save(tmp_path / "small.npy", TRUTH[3:8, 2:9, 4:20])
    small = str(tmp_path / "small.npy")
    result = scores(volumes[0], small, "--offset", "3,2,4", "--block", "4,4,4")
    inside = np.s_[3:8, 2:9, 4:20]
    assert found(result) == pytest.approx(expected(TRUTH[inside], LABELS[inside]))


def test_lines_for_people(volumes):
    output = CliRunner().invoke(evaluate, [*volumes, "--workers", "1"]).output
    split, merge, error = expected(TRUTH, LABELS)
    assert f"VOI split           {split:.4f} bits" in output
    assert f"VOI merge           {merge:.4f} bits" in output
    assert f"adapted Rand error  {error:.4f}" in output


def refused(*arguments):
    CliRunner().invoke(evaluate, [*arguments, "--workers", "1"], catch_exceptions=False)


def test_other_shapes_are_refused_with_the_remedy(volumes, tmp_path):
    np.save(tmp_path / "other.npy", TRUTH[:5])
    with pytest.raises(VolumeError, match=r"--roi; if not, say with --offset"):
        refused(volumes[0], str(tmp_path / "other.npy"))


def test_a_region_outside_is_refused(volumes):
    with pytest.raises(VolumeError, match=r"have only .* in common; correct --roi or --offset"):
        refused(*volumes, "--roi", "0:10,0:5,0:5")
    with pytest.raises(VolumeError, match="correct --roi or --offset"):
        refused(*volumes, "--offset", "9,0,0")


def test_a_mask_of_another_shape_is_refused(volumes, tmp_path):
    np.save(tmp_path / "mask.npy", np.ones((2, 2, 2), np.uint8))
    with pytest.raises(VolumeError, match=r"the mask .* has shape \(2, 2, 2\)"):
        refused(*volumes, "--mask", str(tmp_path / "mask.npy"))


def test_a_mask_with_channels_is_refused(volumes, tmp_path):
    mask = str(tmp_path / "mask.zarr")
    zarr.create_array(mask, shape=(2, *TRUTH.shape), dtype="uint8", dimension_names=list("czyx"))
    with pytest.raises(VolumeError, match=r"the mask .* and 2 channels"):
        refused(*volumes, "--mask", mask)


@pytest.mark.parametrize("block", ["0,8,8", "8,-8,8"])
def test_blocks_without_voxels_are_refused(volumes, block):
    result = CliRunner().invoke(evaluate, [*volumes, f"--block={block}"])
    assert result.exit_code == 2
    assert "must have at least one voxel on each axis" in result.output


def test_raw_is_no_label_volume(volumes, tmp_path):
    np.save(tmp_path / "raw.npy", np.zeros(TRUTH.shape, np.float32))
    with pytest.raises(VolumeError, match=r"float32 .* is no label volume"):
        refused(str(tmp_path / "raw.npy"), volumes[1])


@pytest.mark.parametrize("option", [["--roi", "1:2,3"], ["--offset", "1,2"], ["--block", "a,b,c"]])
def test_options_that_cannot_be_read_say_how_to_write_them(volumes, option):
    result = CliRunner().invoke(evaluate, [*volumes, *option])
    assert result.exit_code == 2
    assert "such as" in result.output


def test_help_has_an_example():
    assert "Example: raphe evaluate" in CliRunner().invoke(evaluate, ["--help"]).output
