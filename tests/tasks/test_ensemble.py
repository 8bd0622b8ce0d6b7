import json

import numpy as np
import pytest
import torch
from rich.console import Console

from pipeline.arrays import open_array
from pipeline.config import Config, Predict
from pipeline.errors import ModelError
from pipeline.fingerprint import fingerprint
from pipeline.geometry import Box
from pipeline.run import run as run_all
from pipeline.steps import Job
from tasks import predict
from tasks.networks.architecture import Bottom, Level, UnetArchitecture
from tasks.networks.ensemble import Ensemble, check_members
from tasks.networks.model import Description, Normalisation, load_network, save_model, weights_hash
from tasks.networks.predictor import Predictor
from tasks.networks.tile import LEVELS, Needs, TilePredictor, as_uint8
from tasks.targets.affinities import NEAREST, Affinities
from tasks.targets.distances import Distances

THREE = (3, 3, 3)
SHAPE = (10, 14, 13)


def description(factor, kernels=1):
    return Description(
        network=UnetArchitecture(
            levels=[Level(channels=3, down=[THREE] * kernels, up=[THREE], factor=factor)],
            bottom=Bottom(channels=4, kernels=[THREE]),
        ),
        heads={"affinities": Affinities(offsets=NEAREST), "distances": Distances(scale=50)},
        voxel_size=(10, 10, 10),
        dtype="uint8",
        normalisation=Normalisation(mean=128, std=40),
    )


MEMBERS = {"a": description((2, 2, 2)), "b": description((1, 3, 2), 2), "c": description((1, 2, 2))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    np.save(folder / "raw.npy", np.random.default_rng(5).integers(0, 256, SHAPE, dtype=np.uint8))
    for seed, (name, member) in enumerate(MEMBERS.items()):
        torch.manual_seed(seed)
        network = member.network.build(member.channels(), plain=True)
        for head in network.heads.values():
            head.weight.data *= 20
        save_model(folder / name, member, network.state_dict())
    return folder


@pytest.fixture
def run(folder, tmp_path):
    def predicted(models, output="out", block=(8, 12, 12), **settings):
        config = Config(
            raw=str(folder / "raw.npy"),
            model=[str(folder / model) for model in models],
            output=str(tmp_path / output),
            voxel_size=(10, 10, 10),
            block=block,
            predict=Predict(**{"tile": (4, 6, 6), "precision": "float32", **settings}),
        )
        job = Job(config, SHAPE, (10, 10, 10), (0, 0, 0), Box((0, 0, 0), SHAPE))
        (step,) = predict.steps(job, [])
        step.prepare(step.params)
        counted = [step.process(step.params, block) for block in reversed(list(step.grid))]
        assert step.bytes_read == sum(counters["bytes_read"] for counters in counted)
        return open_array(f"{config.output}/affinities/s0").read(Box((0, 0, 0), SHAPE)), step

    return predicted


class Constant(TilePredictor):
    """Says the same of every voxel."""

    def __init__(self, level, count=1):
        self.level, self.count = level, count
        self.head, self.device = Distances(scale=1), torch.device("cpu")
        self.needs = Needs((1, 1, 1), (0, 0, 0))

    def levels(self, raw):
        return torch.full((1, *raw.shape), self.level, dtype=torch.int32)


@pytest.mark.parametrize(
    ("how", "values", "expected"),
    [
        ("mean", [0, 1, 0.5], 0.5),
        ("mean", [1, 1], 1),
        ("median", [0.1, 1, 0.2], 0.2),
        ("median", [0.1, 0.3, 0.9, 0.2], 0.25),
        ("median", [0.6], 0.6),
        ("max", [0.1, 0.8, 0.2], 0.8),
    ],
)
@pytest.mark.parametrize("count", [1, 48])
def test_members_are_combined(how, values, expected, count):
    members = [Constant(round(value * LEVELS) * count, count) for value in values]
    ensemble = Ensemble(members, how)
    raw = np.zeros((2, 3, 4), np.uint8)
    assert ensemble.submit(raw)().tolist() == np.full((1, 2, 3, 4), round(expected * 255)).tolist()
    level = ensemble.levels(torch.from_numpy(raw)).unique().item() / ensemble.count
    assert level == pytest.approx(expected * LEVELS, abs=1)


def test_the_mean_is_rounded_half_up_whatever_is_added():
    sums = torch.arange(0, 3 * LEVELS + 1, dtype=torch.int32).reshape(1, 1, 1, -1)
    exact = np.floor(sums.numpy().astype(object) * 2 * 255 + 3 * LEVELS) // (2 * 3 * LEVELS)
    assert (as_uint8(sums, 3).numpy() == exact.astype(np.uint8)).all()
    assert as_uint8(torch.tensor([[[[48 * LEVELS]]]], dtype=torch.int32), 48).item() == 255


def test_members_that_add_other_numbers_are_refused():
    with pytest.raises(ModelError, match=r"\[1, 8\] predictions each; they must be equal"):
        Ensemble([Constant(3), Constant(3, 8)], "mean")


def test_the_order_of_models_is_all_the_same(run):
    first, step = run("abc")
    second, _ = run("cab", "second")
    assert first.std() > 4
    assert (first == second).all()
    assert step.params["tile"] == (4, 6, 6)


def test_an_ensemble_is_the_mean_of_its_models(run, folder):
    found, _ = run("ab")
    needed = (MEMBERS[name].network.context for name in "ab")
    context = [max(sizes) for sizes in zip(*needed, strict=True)]
    raw = np.pad(
        np.load(folder / "raw.npy"),
        [(c, c + -n % s) for c, n, s in zip(context, SHAPE, (2, 6, 2), strict=True)],
        mode="reflect",
    )
    total = 0
    for name in "ab":
        single = Predictor(
            *load_network(folder / name), "affinities", torch.device("cpu"), "float32"
        )
        spare = [c - own for c, own in zip(context, single.needs.context, strict=True)]
        z, y, x = (slice(m, n - m) for m, n in zip(spare, raw.shape, strict=True))
        inner = np.ascontiguousarray(raw[z, y, x])
        z, y, x = SHAPE
        total = total + single.submit(inner)()[:, :z, :y, :x].astype(float)
    assert np.abs(found - total / 2).max() <= 1


@pytest.mark.parametrize("settings", [{}, {"tta": "flips", "ensemble": "median"}], ids=str)
def test_blocks_do_not_show(run, settings):
    first, _ = run("ab", "first", block=(4, 6, 6), **settings)
    second, _ = run("ab", "second", block=(16, 12, 18), **settings)
    assert (first == second).all()


def test_a_step_names_the_weights_of_every_member(run):
    _, step = run("ab")
    _, other = run("ac", "other", tile=(4, 6, 6))
    assert len(set(step.params["weights"])) == 2
    assert fingerprint(step) != fingerprint(other)
    _, highest = run("ab", "highest", ensemble="max")
    assert fingerprint(step) != fingerprint(highest)


def test_a_run_predicts_by_regime(folder, tmp_path):
    """Through the command's own way: parameters as JSON, done markers, provenance."""
    config = Config(
        raw=str(folder / "raw.npy"),
        model=[str(folder / "a"), str(folder / "c")],
        output=str(tmp_path / "out"),
        voxel_size=(10, 10, 10),
        block=(8, 12, 12),
        predict=Predict(
            output="distances", tile=(4, 8, 8), blend=(2, 2, 2), tta="flips", ensemble="max"
        ),
        cluster={"processes": False},
    )
    assert run_all(config, console=Console(quiet=True)).blocks > 0
    assert run_all(config, console=Console(quiet=True)).blocks == 0
    found = open_array(f"{config.output}/distances/s0").read(Box((0, 0, 0), SHAPE))
    assert len(np.unique(found)) > 10
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["model"] == [weights_hash(folder / name) for name in "ac"]


def test_models_that_do_not_go_together_are_refused():
    first = MEMBERS["a"]
    cases = {
        r"head 'distances' is .*50.* in one and .*30": {
            "heads": {"distances": Distances(scale=30)}
        },
        r"dtype is uint8 in one and uint16": {"dtype": "uint16"},
        r"trained at \[10.0, 10.0, 10.0\] and \[40.0, 10.0, 10.0\] nm": {
            "voxel_size": (40.0, 10.0, 10.0)
        },
    }
    for message, changed in cases.items():
        other = first.model_copy(update=changed)
        with pytest.raises(ModelError, match=message):
            check_members({"a": first, "b": other}, "distances")
    check_members({"a": first, "b": MEMBERS["b"]}, "distances")
