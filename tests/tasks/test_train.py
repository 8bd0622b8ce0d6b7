import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from pipeline.errors import ConfigError
from tasks.networks.model import find_model, load_network, read_description
from tasks.train import loop, state
from tasks.train.command import train as command
from tasks.train.config import load
from tasks.train.data import Crops, normalisation, open_pair, open_truth
from tasks.train.loop import learning_rate, progress, train


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only get into each other's way in networks of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def truth(tmp_path):
    """Two cells with a dark membrane between them, and noise."""
    rng = np.random.default_rng(0)
    _, y, x = np.indices((16, 20, 20))
    bent = x - 10 - 2 * np.sin(y / 3)
    labels = np.where(bent < 0, 5, 9).astype(np.uint32)
    raw = np.where(np.abs(bent) < 1.5, 60, 160) + rng.normal(0, 5, labels.shape)
    np.savez(tmp_path / "truth.npz", raw=raw.astype(np.uint8), labels=labels)
    return {
        "raw": f"{tmp_path}/truth.npz:/raw",
        "labels": f"{tmp_path}/truth.npz:/labels",
    }


@pytest.fixture
def settings(tmp_path, truth):
    level = {"channels": 4, "factor": [2, 2, 2], "down": [[3, 3, 3]], "up": [[3, 3, 3]]}
    nearest = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    return {
        "output": str(tmp_path / "model"),
        "training": [truth | {"slices": [0, 12]}],
        "validation": truth | {"slices": [12, 16]},
        "voxel_size": [10, 10, 10],
        "dust": 10,
        "architecture": {
            "levels": [level],
            "bottom": {"channels": 8, "kernels": [[3, 3, 3]]},
        },
        "heads": {
            "affinities": {"kind": "affinities", "offsets": nearest},
            "far": {"kind": "affinities", "offsets": [[0, 0, -3]], "erode": True},
            "distances": {"kind": "distances", "scale": 50},
        },
        "weights": {"far": 0.5},
        "crop": [8, 8, 8],
        "steps": 4,
        "optimiser": {"learning_rate": 0.01, "warmup": 2, "ema": 0.9},
        "precision": "float32",
        "device": "cpu",
    }


@pytest.fixture
def config(tmp_path, settings):
    path = tmp_path / "train.yaml"

    def written(**changes):
        path.write_text(yaml.safe_dump(settings | changes))
        return load(str(path))

    return written


def weights(folder):
    return load_network(folder)[1].state_dict()


def same(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_training_leaves_a_model_that_can_be_found_with_its_record(config):
    folder = train(config())
    description = read_description(find_model(str(folder)))
    assert description.training["steps"] == 4
    assert description.training["validation"][0]["voi_split"] >= 0
    assert description.normalisation.mean == pytest.approx(145, abs=5)
    assert description.voxel_size == (10, 10, 10)


def test_training_learns_the_membrane(config):
    trained = config(steps=60)
    volumes = [open_truth(each, trained) for each in trained.training]
    crops = Crops(trained, volumes, normalisation(volumes))
    now = state.create(trained)
    found = [
        loop.update(trained, now, crops.batch(step), step / 60)["affinities"] for step in range(60)
    ]
    assert np.mean(found[-10:]) < 0.85 * np.mean(found[:10])


def test_an_interrupted_training_ends_like_one_that_was_not(config, tmp_path, monkeypatch):
    whole = train(config(output=str(tmp_path / "whole"), validate_minutes=1e-9))
    update = loop.update

    def interrupted(config, state, sample, share):
        if state.step == 2:
            raise KeyboardInterrupt
        return update(config, state, sample, share)

    monkeypatch.setattr(loop, "update", interrupted)
    parts = config(output=str(tmp_path / "parts"), validate_minutes=1e-9)
    with pytest.raises(KeyboardInterrupt):
        train(parts)
    monkeypatch.setattr(loop, "update", update)
    assert same(weights(train(parts)), weights(whole))
    steps = [each["step"] for each in read_description(tmp_path / "parts").training["validation"]]
    assert steps == [1, 2, 3, 4]


def test_a_training_that_is_over_changes_nothing(config):
    folder = train(config())
    before = (folder / state.CHECKPOINT).read_bytes()
    train(config())
    assert (folder / state.CHECKPOINT).read_bytes() == before


def test_a_checkpoint_of_another_configuration_is_refused(config):
    train(config())
    with pytest.raises(ConfigError, match=r"another configuration: balance, crop changed.*restart"):
        train(config(balance=2, crop=[4, 8, 8]))


def test_a_training_may_be_made_longer(config):
    train(config())
    folder = train(config(steps=6))
    assert read_description(folder).training["steps"] == 6


def test_a_damaged_checkpoint_is_refused(config):
    folder = train(config())
    path = folder / state.CHECKPOINT
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"is damaged .*delete it"):
        train(config(steps=6))


def test_a_crop_is_a_function_of_seed_and_step(config):
    one = config(batch=2)
    volumes = [open_truth(each, one) for each in one.training]
    crops = Crops(one, volumes, normalisation(volumes))
    first, again, next_ = crops.batch(3), crops.batch(3), crops.batch(4)
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["raw"] != next_["raw"]).any()
    assert first["raw"].shape == (2, 1, *one.architecture.input_shape((8, 8, 8)))
    assert first["affinities"].shape == first["affinities.known"].shape == (2, 3, 8, 8, 8)
    assert first["distances"].shape == (2, 1, 8, 8, 8)


def test_targets_belong_to_their_raw_data(config):
    off = dict.fromkeys(("contrast", "brightness", "gamma", "noise"), 0)
    one = config(augment=off)
    volumes = [open_truth(each, one) for each in one.training]
    crops = Crops(one, volumes, normalisation(volumes))
    context = one.architecture.context[0]
    for step in range(10):
        batch = crops.batch(step)
        raw = batch["raw"][0, 0][(slice(context, -context),) * 3]
        near_border = batch["distances"][0, 0] < 10
        if near_border.any():
            assert raw[near_border].mean() < raw[~near_border].mean() - 1


def test_a_crop_may_be_larger_than_its_volume(config):
    one = config(crop=[14, 20, 28])
    volumes = [open_truth(each, one) for each in one.training]
    batch = Crops(one, volumes, normalisation(volumes)).batch(0)
    assert batch["affinities"].shape[2:] == (14, 20, 28)


def test_the_learning_rate_warms_up_and_decays(config):
    one = config()
    assert learning_rate(one, 0, 0) == pytest.approx(0.005)
    assert learning_rate(one, 5, 0.5) == pytest.approx(0.005)
    assert learning_rate(one, 5, 1) == pytest.approx(0, abs=1e-9)


def test_the_clock_ends_a_training_as_well(config):
    one = config(minutes=2)
    now = state.create(one)
    now.step, now.seconds = 1, 60
    assert progress(one, now) == 0.5
    now.seconds = 600
    assert progress(one, now) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": [7, 8, 8]}, r"crop \(7, 8, 8\) is not a multiple .*stride \(2, 2, 2\)"),
        ({"weights": {"near": 1}}, r"weights of heads that do not exist: near"),
        (
            {"heads": {"far": {"kind": "distances", "scale": 9}}},
            r"heads needs 'affinities'",
        ),
        ({"stepps": 3}, r"stepps: Extra inputs"),
        ({"steps": 0}, r"steps: .*greater than 0"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_field(config, change, message):
    with pytest.raises(ConfigError, match=message):
        config(**change)


def test_a_missing_configuration_is_named():
    with pytest.raises(ConfigError, match=r"no training configuration at 'nowhere.yaml'"):
        load("nowhere.yaml")


def test_slices_outside_are_refused(config, truth):
    with pytest.raises(ConfigError, match=r"slices \[3, 99\] are not inside 0…16"):
        train(config(training=[truth | {"slices": [3, 99]}]))


def test_labels_of_another_shape_are_refused(config, truth, tmp_path):
    np.save(tmp_path / "other.npy", np.ones((4, 4, 4), np.uint32))
    with pytest.raises(ConfigError, match=r"must be the same voxels"):
        train(config(training=[truth | {"labels": str(tmp_path / "other.npy")}]))


def test_raw_data_without_contrast_are_refused(config, truth, tmp_path):
    np.save(tmp_path / "grey.npy", np.full((16, 20, 20), 7, np.uint8))
    with pytest.raises(ConfigError, match="every raw voxel that is learnt from is 7"):
        train(config(training=[truth | {"raw": str(tmp_path / "grey.npy")}]))


def test_what_cannot_be_scored_is_refused_before_anything_is_learnt(config, truth, tmp_path):
    np.savez(tmp_path / "none.npz", labels=np.zeros((16, 20, 20), np.uint32))
    with pytest.raises(ConfigError, match=r"none\.npz:/labels' is 0 in all slices"):
        train(config(validation=truth | {"labels": f"{tmp_path}/none.npz:/labels"}))
    with pytest.raises(ConfigError, match=r"slices 11 to 12 of .* in training and in validation"):
        train(config(validation=truth | {"slices": [11, 16]}))


def test_an_absent_gpu_is_named_before_anything_is_learnt(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device is cuda, but torch finds no CUDA"):
        train(config(device="cuda"))


def test_time_must_be_positive(config, tmp_path):
    config()
    result = CliRunner().invoke(command, [str(tmp_path / "train.yaml"), "--minutes", "0"])
    assert result.exit_code == 2
    assert "not in the range x>0" in result.output


def test_volumes_of_dust_are_refused(config):
    with pytest.raises(ConfigError, match=r"no object of at least dust=100000"):
        train(config(dust=100000))


def test_the_command_trains_and_goes_on(config, tmp_path):
    config()
    run = CliRunner().invoke
    arguments = [str(tmp_path / "train.yaml"), "--output", str(tmp_path / "elsewhere")]
    first = run(command, arguments, catch_exceptions=False)
    assert "step 4: validation voi_split" in first.output
    assert f"model: {tmp_path / 'elsewhere'}" in first.output
    assert "going on from" in run(command, arguments, catch_exceptions=False).output
    again = run(command, [*arguments, "--restart"], catch_exceptions=False)
    assert "step 4: validation" in again.output


def test_a_checkpoint_holds_no_pickle(config):
    folder = train(config())
    header = (folder / state.CHECKPOINT).read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + size])["__metadata__"]["state"]


DATA = Path("../shared/data/fib25/train.npz")


@pytest.mark.skipif(not DATA.exists(), reason=f"the training volume is not at {DATA}")
def test_the_shipped_models_configuration_finds_its_data():
    shipped = load(str(find_model("fib25-affinities") / "train.yaml"))
    raw, labels = open_pair(shipped.validation, shipped.voxel_size)
    assert raw.shape == labels.shape == (170, 250, 250)
    assert raw.voxel_size == (10, 10, 10)
