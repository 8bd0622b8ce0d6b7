import numpy as np
import pytest
import torch
import yaml

from pipeline.errors import ModelError
from tasks.networks.architecture import Bottom, Level, UnetArchitecture
from tasks.networks.model import (
    Description,
    Normalisation,
    find_model,
    load_network,
    read_description,
    save_model,
    weights_hash,
)
from tasks.networks.unet import Unet
from tasks.targets.affinities import Affinities
from tasks.targets.distances import Distances

NEAR = [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]


@pytest.fixture
def description():
    three = (3, 3, 3)
    return Description(
        network=UnetArchitecture(
            levels=[Level(channels=2, down=[three], up=[three], factor=(2, 2, 2))],
            bottom=Bottom(channels=3, kernels=[three]),
        ),
        heads={"affinities": Affinities(offsets=NEAR), "distances": Distances(scale=50)},
        voxel_size=(10, 10, 10),
        dtype="uint8",
        normalisation=Normalisation(mean=128, std=30),
        training={"steps": 3},
    )


@pytest.fixture
def folder(tmp_path, description):
    network = Unet(description.network, description.channels(), plain=True)
    save_model(tmp_path / "model", description, network.state_dict())
    return tmp_path / "model"


def test_a_model_comes_back_as_it_was_saved(folder, description):
    found, network = load_network(folder)
    assert found == description
    again = load_network(folder)[1].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())
    assert find_model(str(folder)) == folder


def test_the_hash_is_of_the_weights(folder, description):
    before = weights_hash(folder)
    network = load_network(folder)[1]
    save_model(folder, description, network.state_dict())
    assert weights_hash(folder) == before
    next(network.parameters()).data += 1
    save_model(folder, description, network.state_dict())
    assert weights_hash(folder) != before


def test_an_unknown_model_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ModelError, match=r"no model 'nowhere'.*`raphe train` makes one"):
        find_model("nowhere")


def test_a_model_without_weights_is_none(folder):
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"directory with model.yaml and weights.safetensors"):
        find_model(str(folder))


def test_an_unknown_field_is_refused(folder):
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"colour": "red"}))
    with pytest.raises(ModelError, match=r"does not describe a model: (?s:.*)colour"):
        read_description(folder)


def test_a_model_of_the_first_format_is_refused(folder):
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"format": 1}))
    with pytest.raises(ModelError, match=r"of format 1.*Train the model again.*kind: unet"):
        read_description(folder)


def test_half_of_the_bytes_are_loaded_as_float32(folder, description):
    whole = load_network(folder)[1].state_dict()
    size = (folder / "weights.safetensors").stat().st_size
    save_model(folder, description, whole, half=True)
    assert (folder / "weights.safetensors").stat().st_size < 0.75 * size
    for name, value in load_network(folder)[1].state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, whole[name], rtol=2**-11, atol=1e-7)


def test_weights_that_float16_cannot_hold_are_refused(folder, description):
    weights = load_network(folder)[1].state_dict()
    weights["bottom.convs.0.bias"][0] = 1e5
    with pytest.raises(ModelError, match=r"bottom\.convs\.0\.bias reach 1e\+05.*half=False"):
        save_model(folder, description, weights, half=True)


@pytest.mark.parametrize("damage", ["truncated", "pickle", "other"])
def test_damaged_weights_are_refused(folder, description, damage):
    path = folder / "weights.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "pickle":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        other = Unet(description.network, {"affinities": 6}, plain=True)
        save_model(folder, description, other.state_dict())
    with pytest.raises(
        ModelError, match=r"does not hold the weights(?s:.*)Copy the model directory"
    ):
        load_network(folder)


@pytest.mark.parametrize("size", [(10, 10, 10), (10.5, 9.5, 10)])
def test_voxels_that_the_model_knows_are_taken(description, size):
    description.check_data(size, np.dtype(np.uint8))


def test_other_voxels_are_refused(description):
    with pytest.raises(ModelError, match=r"\[40, 4, 4\] nm is not the \[10\.0, .*Resample"):
        description.check_data((40, 4, 4), np.dtype(np.uint8))


def test_unknown_voxels_are_refused(description):
    with pytest.raises(ModelError, match=r"carries no voxel size; set voxel_size"):
        description.check_data(None, np.dtype(np.uint8))


def test_another_dtype_is_refused(description):
    with pytest.raises(ModelError, match=r"dtype uint16 given to a model trained on uint8.*mean"):
        description.check_data((10, 10, 10), np.dtype(np.uint16))


def test_a_head_that_is_missing_is_named(description):
    with pytest.raises(ModelError, match=r"no head 'myelin'; it has affinities, distances"):
        description.head("myelin")


def test_quantised_heads_keep_their_meaning():
    logits = torch.tensor([-50.0, 0.0, 50.0])
    assert Affinities(offsets=NEAR).quantise(logits).tolist() == [0, 128, 255]
    head = Distances(scale=50)
    assert head.quantise(logits).tolist() == [0, 128, 255]
    nm = 30.0
    value = head.quantise(torch.tensor([nm / head.scale]))
    assert head.scale * np.arctanh(value.numpy() / 127.5 - 1) == pytest.approx(nm, abs=0.5)


def test_the_shipped_model_predicts_what_a_run_segments():
    folder = find_model("fib25-affinities")
    found, network = load_network(folder)
    assert found.heads["affinities"].offsets == NEAR
    assert found.voxel_size == (10, 10, 10)
    last = found.training["validation"][-1]
    assert last["voi_split"] + last["voi_merge"] <= 1.9
    assert sum(p.numel() for p in network.parameters()) < 1.5e6
