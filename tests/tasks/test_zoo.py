import hashlib
import os
import pickle
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from pipeline.errors import ConfigError, ModelError
from tasks.networks.architecture import Bottom, Level, UnetArchitecture
from tasks.networks.command import model as command
from tasks.networks.export import export_program, load_program, program
from tasks.networks.model import (
    Description,
    Normalisation,
    load_network,
    read_description,
    save_model,
)
from tasks.networks.zoo import load_package, save_package
from tasks.targets.affinities import NEAREST, Affinities
from tasks.targets.distances import Distances

# TorchScript is what programs that run packages of bioimage.io still take.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
]

THREE = (3, 3, 3)
DESCRIPTION = Description(
    network=UnetArchitecture(
        levels=[Level(channels=3, down=[THREE], up=[(1, 3, 3)], factor=(1, 2, 2))],
        bottom=Bottom(channels=4, kernels=[THREE]),
    ),
    heads={"affinities": Affinities(offsets=NEAREST), "distances": Distances(scale=50)},
    voxel_size=(40, 10, 10),
    dtype="uint8",
    normalisation=Normalisation(mean=128, std=40),
    training={"steps": 3},
    licence="CC BY 4.0",
    credit="Somebody",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "model"
    torch.manual_seed(1)
    network = DESCRIPTION.network.build(DESCRIPTION.channels(), plain=True)
    save_model(folder, DESCRIPTION, network.state_dict())
    return folder


@pytest.fixture(scope="module")
def package(folder):
    pytest.importorskip("bioimageio.spec")
    path = folder.parent / "package.zip"
    save_package(str(folder), path)
    return path


def other_size():
    """A core that no program was made with."""
    return torch.randn(1, 1, *DESCRIPTION.network.input_shape((5, 6, 8)))


def rewritten(package, path, **members):
    """A package with other members; None leaves one out."""
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(path, "w") as new:
        contents = {name: old.read(name) for name in old.namelist()}
        contents |= {name.replace("__", "."): value for name, value in members.items()}
        for name, value in contents.items():
            if value is not None:
                new.writestr(name, value)
    return path


def test_weights_without_a_hash_are_refused(package, tmp_path):
    with zipfile.ZipFile(package) as archive:
        rdf = yaml.safe_load(archive.read("rdf.yaml"))
    del rdf["weights"]["pytorch_state_dict"]["sha256"]
    other = rewritten(package, tmp_path / "o.zip", rdf__yaml=yaml.safe_dump(rdf).encode())
    with pytest.raises(ModelError, match=r"has no weights that Raphe can read \(KeyError"):
        load_package(other, tmp_path / "model")


def with_weights(package, path, data):
    """A package with other weights, and their hash."""
    with zipfile.ZipFile(package) as archive:
        rdf = yaml.safe_load(archive.read("rdf.yaml"))
    rdf["weights"]["pytorch_state_dict"]["sha256"] = hashlib.sha256(data).hexdigest()
    members = {"weights__pt": data, "rdf__yaml": yaml.safe_dump(rdf).encode()}
    return rewritten(package, path, **members)


def test_a_package_becomes_the_same_model_again(package, folder, tmp_path):
    load_package(package, tmp_path / "again")
    expected, network = load_network(folder)
    found, again = load_network(tmp_path / "again")
    assert found == expected
    weights = again.state_dict()
    assert weights.keys() == network.state_dict().keys()
    assert all(torch.equal(v, weights[name]) for name, v in network.state_dict().items())


def test_a_package_is_valid_and_says_how_it_is_used(package):
    from bioimageio.spec import ValidationContext, load_description

    with ValidationContext(perform_io_checks=True):
        found = load_description(package)
    assert found.type == "model", found.validation_summary.errors
    sizes = {axis.id: axis.size for axis in found.inputs[0].axes if axis.type == "space"}
    context = DESCRIPTION.network.context
    assert [sizes[axis].step for axis in "zyx"] == [1, 2, 2]
    assert [sizes[axis].min for axis in "zyx"] == [
        n + 2 * c for n, c in zip((2, 4, 4), context, strict=True)
    ]
    (scaling,) = (
        step.kwargs
        for step in found.inputs[0].preprocessing
        if step.id == "fixed_zero_mean_unit_variance"
    )
    assert (scaling.mean, scaling.std) == (128, 40)
    assert [output.id for output in found.outputs] == ["affinities", "distances"]


def test_others_can_run_the_package_without_raphe(package, folder, tmp_path):
    with zipfile.ZipFile(package) as archive:
        archive.extractall(tmp_path)
    script = torch.jit.load(tmp_path / "weights-torchscript.pt")
    expected = load_program(str(folder))[1]
    test_input = torch.from_numpy(np.load(tmp_path / "input.npy"))
    with torch.no_grad():
        for raw in (other_size(), test_input):
            for found, value in zip(script(raw), expected(raw), strict=True):
                torch.testing.assert_close(found, value, atol=1e-5, rtol=0)
        stored = np.load(tmp_path / "affinities.npy")
        np.testing.assert_allclose(script(test_input)[0], stored, atol=1e-5)


def test_the_architecture_that_a_package_names_takes_its_weights(package, folder, tmp_path):
    with zipfile.ZipFile(package) as archive:
        weights = yaml.safe_load(archive.read("rdf.yaml"))["weights"]["pytorch_state_dict"]
        archive.extract(weights["source"], tmp_path)
    assert weights["architecture"]["import_from"] == "tasks.networks.export"
    made = program(**weights["architecture"]["kwargs"])
    made.load_state_dict(torch.load(tmp_path / weights["source"], weights_only=True))
    raw = other_size()
    with torch.no_grad():
        for found, value in zip(made(raw), load_program(str(folder))[1](raw), strict=True):
            assert torch.equal(found, value)


def test_an_exported_program_takes_other_sizes(folder, tmp_path):
    export_program(str(folder), tmp_path / "model.pt2")
    made = torch.export.load(tmp_path / "model.pt2").module()
    raw = other_size()
    with torch.no_grad():
        for found, value in zip(made(raw), load_program(str(folder))[1](raw), strict=True):
            assert 0 <= value.min() <= value.max() <= 1
            torch.testing.assert_close(found, value, atol=1e-6, rtol=0)


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("was-run",)


def test_weights_that_are_a_pickle_of_code_are_refused(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"network.bottom.convs.0.weight": Evil()}, "evil.pt")
    for data in [(tmp_path / "evil.pt").read_bytes(), pickle.dumps(Evil())]:
        evil = with_weights(package, tmp_path / "evil.zip", data)
        with pytest.raises(ModelError, match=r"are not the tensors .*was not run"):
            load_package(evil, tmp_path / "model")
    assert not (tmp_path / "was-run").exists()
    assert not (tmp_path / "model").exists()


def test_weights_of_another_network_are_refused(package, tmp_path):
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pt")
    other = with_weights(package, tmp_path / "other.zip", (tmp_path / "other.pt").read_bytes())
    with pytest.raises(ModelError, match=r"are not the tensors that raphe-model.yaml describes"):
        load_package(other, tmp_path / "model")


def test_damaged_packages_are_refused(package, tmp_path):
    cases = {
        r"have the hash \w{12}…, not \w{12}…": {"weights__pt": b"nothing"},
        r"was not written by Raphe.*code is not run": {"raphe-model__yaml": None},
        r"does not describe a model(?s:.*)network": {"raphe-model__yaml": b"format: 2"},
        r"no valid bioimage.io package.*inputs": {
            "rdf__yaml": b"type: model\nformat_version: 0.5.3\nname: it\n"
        },
        r"has no weights that Raphe can read": {"weights__pt": None},
    }
    for message, members in cases.items():
        damaged = rewritten(package, tmp_path / "damaged.zip", **members)
        with pytest.raises(ModelError, match=message):
            load_package(damaged, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_without_bioimageio_it_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bioimageio.spec", None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'raphe\[zoo\]'"):
        save_package(str(folder), tmp_path / "package.zip")


def test_the_commands_exchange_a_model(package, folder, tmp_path):
    def call(*arguments):
        return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)

    assert "written: " in call("export", folder, tmp_path / "it.zip").output
    assert "model: " in call("import", tmp_path / "it.zip", tmp_path / "model").output
    assert load_network(tmp_path / "model")[0] == DESCRIPTION
    with pytest.raises(ConfigError, match=r"is not empty; choose another folder"):
        call("import", tmp_path / "it.zip", tmp_path / "model")
    with pytest.raises(ConfigError, match=r"torch-export ends in \.pt2, and .*it\.zip does not"):
        call("export", folder, tmp_path / "it.zip", "--format", "torch-export")


def test_folders_of_any_name_can_be_packed(folder, tmp_path):
    pytest.importorskip("bioimageio.spec")
    short = tmp_path / "v.2"
    shutil.copytree(folder, short)
    save_package(str(short), tmp_path / "v2.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.2", "v2.zip"]
    load_package(tmp_path / "v2.zip", tmp_path / "again")
    assert read_description(tmp_path / "again") == DESCRIPTION


def test_a_package_that_is_refused_leaves_nothing(folder, tmp_path, monkeypatch):
    pytest.importorskip("bioimageio.spec")
    monkeypatch.setattr("tasks.networks.rdf.presentable", lambda name: "it")
    with pytest.raises(ModelError, match="name: Value should have at least 5"):
        save_package(str(folder), tmp_path / "package.zip")
    assert not list(tmp_path.iterdir())
