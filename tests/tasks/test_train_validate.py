"""A validation is what a run would give, for every setting, and the best one is named."""

import numpy as np
import pytest
from trainings import configuration, write_truth

from pipeline.config import Segment
from pipeline.volumes import open_volume
from tasks.core import segment_volume
from tasks.evaluate.contingency import contingency
from tasks.evaluate.scores import score
from tasks.networks.model import Description, Normalisation
from tasks.networks.predictor import Predictor, find_device
from tasks.predict import default_tile, predict_tiles
from tasks.tiles import cores
from tasks.train.data import Truth, open_pair, used_box
from tasks.train.state import create
from tasks.train.validate import best_setting, read_truth, validate


def setting(threshold, size, split, merge=0.0):
    return {
        "threshold": threshold,
        "absorb_size": size,
        "voi_split": split,
        "voi_merge": merge,
        "adapted_rand_error": 0.1,
    }


def test_the_best_setting_is_the_middle_of_those_that_are_equal():
    assert best_setting([setting(0.4, 0, 2.0), setting(0.5, 0, 1.0)])["threshold"] == 0.5
    plateau = [setting(t, 600, 0.5, 0.5) for t in (0.4, 0.5, 0.6, 0.7, 0.8)]
    assert best_setting([setting(0.3, 600, 3.0), *plateau])["threshold"] == 0.6


def test_mask_and_background_are_not_scored(tmp_path):
    labels = np.arange(1, 9, dtype=np.uint32).reshape(2, 2, 2)
    mask = np.ones_like(labels)
    mask[0, 0, 0] = 0
    np.savez(tmp_path / "t.npz", raw=labels.astype(np.uint8), labels=labels, mask=mask)
    names = {name: f"{tmp_path}/t.npz:/{name}" for name in ("raw", "labels", "mask")}
    truth = Truth(**names, background=[4], slices=(0, 1))
    raw, volume = open_pair(truth, (10, 10, 10))
    assert read_truth(truth, raw, volume, (10, 10, 10)).tolist() == [[[0, 2], [3, 0]]]


@pytest.fixture
def trained(tmp_path):
    """A configuration, a description and a network of prediction, however good."""
    other = write_truth(tmp_path / "other.npz", (8, 20, 20))
    truth = {"raw": f"{tmp_path}/truth.npz:/raw", "labels": f"{tmp_path}/truth.npz:/labels"}
    config = configuration(tmp_path, validation=[truth | {"slices": [12, 16]}, other])
    description = Description(
        network=config.network,
        heads=config.heads,
        voxel_size=(10, 10, 10),
        dtype="uint8",
        normalisation=Normalisation(mean=145, std=30),
    )
    network = config.network.build(description.channels(), plain=True)
    network.load_state_dict(config.network.folded(create(config).network))
    return config, description, network.eval()


def test_every_setting_is_scored_over_all_volumes(trained):
    config, description, network = trained
    found = validate(config, description, network)
    assert [(each["threshold"], each["absorb_size"]) for each in found.settings] == [
        (threshold, size) for threshold in (0.4, 0.5, 0.6) for size in (0, 20)
    ]
    assert found.best in found.settings
    assert found.picture.startswith(b"\x89PNG")
    # Volumes have no object in common, so entropies are means over voxels.
    predictor = Predictor(description, network, "affinities", find_device("cpu"), "float32")
    total = voxels = 0
    for truth in config.validation:
        raw = open_volume(truth.raw, voxel_size=(10, 10, 10))
        box = used_box(truth, raw.shape)
        tiles = cores(box, box, default_tile(description), (2, 2, 2))
        affinities, _ = predict_tiles(predictor, raw, tiles, box)
        labels = segment_volume(affinities, Segment(threshold=0.5, absorb_size=20))
        one = score(contingency(open_volume(truth.labels).read(box), labels))
        total, voxels = total + one.voi_split * one.n_voxels, voxels + one.n_voxels
    expected = total / voxels
    setting = next(
        each for each in found.settings if (each["threshold"], each["absorb_size"]) == (0.5, 20)
    )
    assert setting["voi_split"] == pytest.approx(expected, abs=1e-4)
