from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from pipeline.arrays import open_array
from pipeline.config import Config, Predict, Roi
from pipeline.errors import ConfigError, ModelError
from pipeline.fingerprint import fingerprint
from pipeline.geometry import Box
from pipeline.job import make_steps
from pipeline.run import run as run_all
from pipeline.steps import Job
from tasks import predict
from tasks.affinities import affinities_of_heights
from tasks.core import segment_volume
from tasks.networks import regimes
from tasks.networks.architecture import Bottom, Level, UnetArchitecture
from tasks.networks.model import Description, Normalisation, load_network, save_model
from tasks.networks.predictor import Predictor
from tasks.networks.unet import Unet
from tasks.targets.affinities import Affinities
from tasks.targets.distances import Distances

SHAPE = (17, 30, 27)
THREE = (3, 3, 3)
DESCRIPTION = Description(
    network=UnetArchitecture(
        levels=[Level(channels=4, down=[THREE], up=[THREE], factor=(1, 2, 2))],
        bottom=Bottom(channels=6, kernels=[THREE, (1, 3, 3)]),
    ),
    heads={
        "affinities": Affinities(offsets=[(-1, 0, 0), (0, -1, 0), (0, 0, -1)]),
        "distances": Distances(scale=50),
    },
    voxel_size=(10, 10, 10),
    dtype="uint8",
    normalisation=Normalisation(mean=128, std=40),
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(5)
    np.save(folder / "raw.npy", rng.integers(0, 256, SHAPE, dtype=np.uint8))
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :8, :8] = 1
    np.save(folder / "mask.npy", mask)
    torch.manual_seed(2)
    network = Unet(DESCRIPTION.network, DESCRIPTION.channels(), plain=True)
    for head in network.heads.values():
        head.weight.data *= 10
    save_model(folder / "model", DESCRIPTION, network.state_dict())
    return folder


@pytest.fixture
def run(paths, tmp_path):
    """Predict all blocks; returns the whole array and the step."""

    def predicted(output="out", tile=(4, 8, 8), block=(8, 16, 16), precision="float32", **config):
        settings = Config(
            raw=config.pop("raw", str(paths / "raw.npy")),
            model=str(paths / "model"),
            output=str(tmp_path / output),
            block=block,
            predict=Predict(
                tile=tile, precision=precision, output=config.pop("head", "affinities")
            ),
            **{"voxel_size": (10, 10, 10), **config},
        )
        roi = Box((0, 0, 0), SHAPE)
        if settings.roi:
            roi = Box(settings.roi.offset, settings.roi.shape)
        job = Job(settings, SHAPE, (10, 10, 10), (0, 0, 0), roi)
        (step,) = predict.steps(job, [])
        step.prepare(step.params)
        for part in reversed(list(step.grid)):
            step.process(step.params, part)
        array = open_array(f"{settings.output}/{settings.predict.output}/s0")
        return array.read(Box((0, 0, 0), SHAPE)), step

    return predicted


def whole_volume_at_once(paths):
    """What the network says with the volume mirrored far beyond its border."""
    context, stride = DESCRIPTION.network.context, DESCRIPTION.network.stride
    padding = [(c, c + -n % s) for c, n, s in zip(context, SHAPE, stride, strict=True)]
    raw = np.pad(np.load(paths / "raw.npy"), padding, mode="reflect")
    network = Predictor(
        *load_network(paths / "model"), "affinities", torch.device("cpu"), "float32"
    )
    z, y, x = SHAPE
    return network.submit(raw)()[:, :z, :y, :x]


def difference(a, b):
    return np.abs(a.astype(int) - b).max()


def test_affinities_in_another_order_are_refused(paths, tmp_path):
    """A decoder takes the first channel for z, whatever it was taught."""
    head = Affinities(offsets=[(0, 0, -1), (0, -1, 0), (-1, 0, 0)])
    turned = DESCRIPTION.model_copy(update={"heads": {"affinities": head}})
    save_model(tmp_path / "turned", turned, {})
    config = Config(
        raw=str(paths / "raw.npy"),
        model=str(tmp_path / "turned"),
        output=str(tmp_path / "out"),
        voxel_size=(10, 10, 10),
    )
    with pytest.raises(ModelError, match=r"turned' has the offsets \[\(0, 0, -1\).*in this order"):
        predict.steps(Job(config, SHAPE, (10, 10, 10), (0, 0, 0), Box((0, 0, 0), SHAPE)), [])


def test_tiles_and_blocks_do_not_show(paths, run):
    expected = whole_volume_at_once(paths)
    assert expected.std() > 20
    for index, (tile, block) in enumerate(
        [((4, 8, 8), (8, 16, 16)), ((6, 10, 28), (6, 10, 28)), ((20, 32, 32), (3, 4, 5))]
    ):
        found, _ = run(f"out{index}", tile=tile, block=block)
        assert difference(found, expected) <= 1


def test_with_one_tile_shape_all_blocks_agree_to_the_last_bit(run):
    first, _ = run("first", block=(4, 8, 8), precision="bfloat16")
    second, _ = run("second", block=(20, 16, 32), precision="bfloat16")
    assert (first == second).all()


def test_bfloat16_is_near_float32(run):
    exact, _ = run("exact")
    rough, _ = run("rough", precision="bfloat16")
    assert difference(exact, rough) <= 12


def test_a_region_of_interest_is_predicted_as_in_the_whole(run):
    whole, _ = run("whole")
    roi = Roi(offset=(3, 5, 6), shape=(9, 13, 14))
    part, _ = run("part", roi=roi)
    inside = Box(roi.offset, roi.shape).slices
    assert difference(part[:, *inside], whole[:, *inside]) <= 1
    part[:, *inside] = 0
    assert not part.any()


def test_tiles_outside_the_mask_are_left_out(paths, run):
    whole, _ = run("whole")
    masked, step = run("masked", mask=str(paths / "mask.npy"))
    assert (masked[:, :, :8, :8] == whole[:, :, :8, :8]).all()
    assert not masked[:, :, 8:, :].any()
    block = step.grid.at((0, 1, 1))
    assert step.process(step.params, block) == {
        "bytes_read": 0,
        "bytes_written": 3 * block.box.n_voxels,
        "tiles": 0,
    }


def test_distances_are_written_with_their_scale(run, tmp_path):
    values, _ = run(head="distances")
    array = open_array(str(tmp_path / "out/distances/s0"))
    assert array.channels == values.shape[0] == 1
    assert array.attributes["scale"] == 50
    assert "atanh" in array.attributes["quantity"]


def test_affinities_carry_their_offsets(run, tmp_path):
    run()
    attributes = open_array(str(tmp_path / "out/affinities/s0")).attributes
    assert attributes["offsets"] == [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]


def test_other_weights_are_another_step_and_another_place_is_not(run):
    _, step = run("one")
    _, moved = run("two")
    assert fingerprint(step) == fingerprint(moved)
    other = replace(step, params={**step.params, "weights": "0" * 64})
    assert fingerprint(step) != fingerprint(other)


def test_weights_that_changed_since_the_run_began_are_refused(run):
    _, step = run()
    params = {**step.params, "weights": "0" * 64}
    with pytest.raises(ModelError, match=r"but the run was begun with 000000000000….*Run again"):
        step.process(params, next(iter(step.grid)))


@pytest.mark.parametrize(
    "change",
    [{"normalisation": Normalisation(mean=100, std=40)}, {"voxel_size": (10, 10.2, 10)}],
    ids=str,
)
def test_a_description_that_changed_is_another_step_and_another_network(run, paths, change):
    """The weights alone do not say what is predicted: axes change places where voxels agree."""
    first, step = run("first")
    model, weights = load_network(paths / "model")
    save_model(paths / "model", model.model_copy(update=change), weights.state_dict())
    regimes.load.cache_clear()
    try:
        with pytest.raises(ModelError, match=r"model.yaml says something else than when"):
            step.process(step.params, next(iter(step.grid)))
        second, other = run("second")
    finally:
        save_model(paths / "model", model, weights.state_dict())
    assert fingerprint(step) != fingerprint(other)
    assert (first != second).any() == ("normalisation" in change)


@pytest.mark.parametrize(
    ("heads", "name", "message"),
    [
        ({"affinities": Distances(scale=5)}, "affinities", r"has the offsets None, and a run"),
        (
            {"boundary": DESCRIPTION.heads["affinities"]},
            "boundary",
            r"kind 'affinities' and has 3 channels.*use another model",
        ),
    ],
)
def test_heads_that_are_not_what_they_are_called_are_refused(paths, tmp_path, heads, name, message):
    save_model(tmp_path / "m", DESCRIPTION.model_copy(update={"heads": heads}), {})
    config = Config(
        raw=str(paths / "raw.npy"),
        model=str(tmp_path / "m"),
        output=str(tmp_path / "out"),
        voxel_size=(10, 10, 10),
        predict=Predict(output=name),
    )
    with pytest.raises(ModelError, match=message):
        predict.steps(Job(config, SHAPE, (10, 10, 10), (0, 0, 0), Box((0, 0, 0), SHAPE)), [])


def test_what_a_step_reads_is_projected_exactly(run):
    _, step = run()
    read = sum(step.process(step.params, block)["bytes_read"] for block in step.grid)
    assert step.bytes_read == read
    assert step.bytes_written == 3 * np.prod(SHAPE)


def test_activations_are_at_least_those_of_the_widest_convolution():
    architecture = DESCRIPTION.network
    z, y, x = architecture.input_shape((4, 8, 8))
    assert architecture.activation_values((4, 8, 8)) >= (z - 2) * (y - 2) * (x - 2) * 4 + z * y * x


def test_the_default_tile_fits_the_network_and_the_voxels():
    thick = DESCRIPTION.model_copy(update={"voxel_size": (40.0, 4.0, 4.0)})
    assert predict.default_tile(DESCRIPTION) == (128, 128, 128)
    assert predict.default_tile(thick) == (13, 128, 128)


def test_a_tile_that_does_not_fit_the_network_is_refused(run):
    with pytest.raises(ConfigError, match=r"predict.tile: .*\(4, 9, 8\).*\(4, 10, 8\) would be"):
        run(tile=(4, 9, 8))


def test_other_voxels_are_refused(run):
    with pytest.raises(ModelError, match=r"\[8\.0, 4\.0, 4\.0\] nm is not .* Resample"):
        run(voxel_size=(8, 4, 4))


def test_another_dtype_is_refused(paths, run):
    np.save(paths / "wide.npy", np.zeros(SHAPE, np.uint16))
    with pytest.raises(ModelError, match=r"dtype uint16 .* trained on uint8"):
        run(raw=str(paths / "wide.npy"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_says_what_the_cpu_says(paths):
    context = DESCRIPTION.network.context
    raw = np.load(paths / "raw.npy")[: 4 + 2 * context[0], : 8 + 2 * context[1]]
    raw = np.ascontiguousarray(raw[:, :, : 8 + 2 * context[2]])
    found = [
        Predictor(*load_network(paths / "model"), "affinities", torch.device(name), "float32")
        for name in ("cpu", "cuda")
    ]
    assert difference(found[0].submit(raw)(), found[1].submit(raw)()) <= 1


def distances_run(paths, output, **settings):
    return Config(
        raw=str(paths / "raw.npy"),
        model=str(paths / "model"),
        output=str(output),
        voxel_size=(10, 10, 10),
        predict=Predict(output="distances", tile=(4, 8, 8)),
        cluster={"processes": False},
        **settings,
    )


def test_a_run_without_a_decoder_ends_with_what_is_predicted(paths, tmp_path):
    config = distances_run(paths, tmp_path / "out", block=(8, 16, 16), decoder="none")
    summary = run_all(config, console=Console(quiet=True))
    assert ([step.name for step in summary.steps], summary.made) == (["predict"], "distances")
    array = open_array(f"{config.output}/distances/s0")
    assert len(np.unique(array.read(Box((0, 0, 0), SHAPE)))) > 2


def test_nothing_to_do_is_refused():
    config = Config(affinities="affinities", output="out", decoder="none")
    job = Job(config, SHAPE, (10.0,) * 3, (0.0,) * 3, Box((0, 0, 0), SHAPE))
    with pytest.raises(ConfigError, match="leave nothing to do; set decoder: exact"):
        make_steps(job)


@pytest.mark.parametrize("block", [(4, 8, 8), (8, 16, 24)])
def test_distances_are_segmented_alike_in_any_blocks(paths, tmp_path, block):
    """One voxel below a block is part of what its affinities are made of."""
    segment = {"threshold": 0.45, "absorb_size": 20, "supervoxel": {"size": 10}}
    config = distances_run(paths, tmp_path / "out", block=block, segment=segment)
    run_all(config, console=Console(quiet=True))
    whole = Box((0, 0, 0), SHAPE)
    heights = open_array(f"{config.output}/distances/s0").read(whole)[0]
    labels = open_array(f"{config.output}/labels/s0").read(whole)
    expected = segment_volume(affinities_of_heights(heights), config.segment)
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, expected)


def test_a_compiled_network_says_the_same(paths, monkeypatch):
    """With torch's tracer, but without a minute of its C++ compiler."""
    calls = []

    def eager(function):
        calls.append(function)
        return compile_network(function, backend="eager")

    compile_network = torch.compile
    monkeypatch.setattr(torch, "compile", eager)
    shape = [n + 2 * c for n, c in zip((4, 8, 8), DESCRIPTION.network.context, strict=True)]
    raw = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    found = [
        Predictor(
            *load_network(paths / "model"),
            "affinities",
            torch.device("cpu"),
            "float32",
            compiled=compiled,
        ).submit(raw)()
        for compiled in (False, True)
    ]
    assert len(calls) == 1
    assert difference(*found) <= 1
