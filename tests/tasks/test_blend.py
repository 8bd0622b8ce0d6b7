import numpy as np
import pytest
import torch

from pipeline.arrays import open_array
from pipeline.config import Config, Predict, Roi
from pipeline.errors import ConfigError
from pipeline.geometry import Box
from pipeline.steps import Job
from pipeline.volumes import open_volume
from tasks import predict
from tasks.networks.architecture import Bottom, Level, UnetArchitecture
from tasks.networks.blend import blended_tiles, predict_blended, weights
from tasks.networks.model import Description, Normalisation, load_network, save_model
from tasks.networks.predictor import Predictor
from tasks.targets.affinities import NEAREST, Affinities

THREE = (3, 3, 3)
SHAPE = (13, 22, 19)
VALID = Description(
    network=UnetArchitecture(
        levels=[Level(channels=4, down=[THREE], up=[THREE], factor=(1, 2, 2))],
        bottom=Bottom(channels=6, kernels=[THREE]),
    ),
    heads={"affinities": Affinities(offsets=NEAREST)},
    voxel_size=(10, 10, 10),
    dtype="uint8",
    normalisation=Normalisation(mean=128, std=40),
)
PADDED = VALID.model_copy(update={"network": VALID.network.model_copy(update={"padding": "same"})})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blend")
    np.save(folder / "raw.npy", np.random.default_rng(5).integers(0, 256, SHAPE, dtype=np.uint8))
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:, 9:14, :7] = 1
    np.save(folder / "mask.npy", mask)
    for name, description in {"valid": VALID, "padded": PADDED}.items():
        torch.manual_seed(2)
        network = description.network.build(description.channels(), plain=True)
        for head in network.heads.values():
            head.weight.data *= 10
        save_model(folder / name, description, network.state_dict())
    return folder


@pytest.fixture
def run(folder, tmp_path):
    def predicted(model, output="out", tile=(4, 8, 8), block=(8, 16, 16), **config):
        settings = {"blend": (2, 4, 2), "precision": "float32", **config.pop("settings", {})}
        settings = Config(
            raw=config.pop("raw", str(folder / "raw.npy")),
            model=str(folder / model),
            output=str(tmp_path / output),
            voxel_size=(10, 10, 10),
            block=block,
            predict=Predict(tile=tile, **settings),
            **config,
        )
        roi = Box((0, 0, 0), SHAPE)
        if settings.roi:
            roi = Box(settings.roi.offset, settings.roi.shape)
        job = Job(settings, SHAPE, (10, 10, 10), (0, 0, 0), roi)
        (step,) = predict.steps(job, [])
        step.prepare(step.params)
        read = sum(step.process(step.params, b)["bytes_read"] for b in reversed(list(step.grid)))
        array = open_array(f"{settings.output}/affinities/s0")
        return array.read(Box((0, 0, 0), SHAPE)), step, read

    return predicted


def by_hand(folder, model, tile, blend, cropped):
    """A loop over all tiles of the volume, in floats."""
    description, network = load_network(folder / model)
    single = Predictor(
        description, network, "affinities", torch.device("cpu"), "float32", cropped=cropped
    )
    raw = np.load(folder / "raw.npy")
    margin = 40
    padded = np.pad(raw, margin, mode="reflect")
    sums, total = np.zeros((3, *SHAPE)), np.zeros(SHAPE)
    counts = [-(-n // t) for n, t in zip(SHAPE, tile, strict=True)]
    context = single.needs.context
    for index in np.ndindex(*counts):
        begin = [i * t - b for i, t, b in zip(index, tile, blend, strict=True)]
        size = [t + 2 * b for t, b in zip(tile, blend, strict=True)]
        z, y, x = (
            slice(margin + o - c, margin + o + s + c)
            for o, s, c in zip(begin, size, context, strict=True)
        )
        with torch.inference_mode():
            levels = single.levels(torch.from_numpy(padded[z, y, x].copy())).numpy() / 65535
        for local in np.ndindex(*size):
            voxel = tuple(b + p for b, p in zip(begin, local, strict=True))
            if all(0 <= v < n for v, n in zip(voxel, SHAPE, strict=True)):
                weight = 1
                for p, s, b in zip(local, size, blend, strict=True):
                    weight *= min(p + 1, s - p, 2 * b) if b else 1
                total[voxel] += weight
                sums[(slice(None), *voxel)] += weight * levels[(slice(None), *local)]
    return sums / total * 255


@pytest.mark.parametrize("model", ["valid", "padded"])
@pytest.mark.parametrize("blend", [(2, 4, 2), (0, 2, 0)], ids=str)
def test_it_is_the_weighted_mean_of_all_tiles(run, folder, model, blend):
    found, step, read = run(model, settings={"blend": blend})
    expected = by_hand(folder, model, (4, 8, 8), blend, cropped=False)
    assert found.std() > 15
    assert np.abs(found - expected).max() <= 0.5 + 1e-3
    assert step.bytes_read == read


@pytest.mark.parametrize("model", ["valid", "padded"])
def test_blocks_do_not_show(run, model):
    """To the last bit: blocks of one tile, of many, and cut by the volume in another way."""
    first, _, _ = run(model, "first", block=(4, 8, 8))
    for number, block in enumerate([(8, 8, 24), (16, 24, 8), (400, 400, 400)]):
        found, _, _ = run(model, f"other{number}", block=block)
        assert (found == first).all()


def test_a_region_of_interest_is_predicted_as_in_the_whole(run):
    whole, _, _ = run("padded", "whole")
    roi = Roi(offset=(3, 5, 6), shape=(7, 13, 9))
    part, _, _ = run("padded", "part", roi=roi)
    inside = Box(roi.offset, roi.shape).slices
    assert (part[:, *inside] == whole[:, *inside]).all()


def test_blocks_do_not_show_in_a_mask(run, folder):
    mask = str(folder / "mask.npy")
    found = [
        run("padded", f"mask{number}", block=block, mask=mask)[0]
        for number, block in enumerate([(4, 8, 8), (16, 24, 24)])
    ]
    assert (found[0] == found[1]).all()
    assert (found[0] > 0).any()
    assert not found[0][:, :2].any()


def test_a_network_that_pads_needs_no_context(run):
    blended, step, _ = run("padded")
    cropped, other, _ = run("padded", "cropped", settings={"blend": None})
    assert PADDED.network.context == (3, 6, 6)
    assert step.lower == (3 + 2 * 2, 7 + 2 * 4, 7 + 2 * 2)
    assert other.lower == (3, 7, 7)
    # The tiles' borders show, but weigh less than where nothing is blended.
    hard, _, _ = run("padded", "hard", settings={"blend": (0, 0, 0)})
    errors = [np.abs(found.astype(int) - cropped).mean() for found in (blended, hard)]
    assert 0 < errors[0] < 0.8 * errors[1]


def test_a_block_reads_no_further_than_its_step_says(run, folder, tmp_path):
    """Raw data beyond the reach of a block do not change it."""
    before, step, _ = run("valid", block=(4, 8, 8), settings={"blend": (0, 2, 2)})
    raw = np.load(folder / "raw.npy")
    block = step.grid.at((0, 0, 0)).box
    reach = block.grow((0, 0, 0), step.upper)
    far = np.ones(SHAPE, bool)
    far[reach.intersect(Box((0, 0, 0), SHAPE)).slices] = False
    assert far.any()
    raw[far] = 255 - raw[far]
    np.save(tmp_path / "other.npy", raw)
    volume = open_volume(str(tmp_path / "other.npy"), voxel_size=(10, 10, 10))
    network = Predictor(
        *load_network(folder / "valid"), "affinities", torch.device("cpu"), "float32"
    )
    tiles = blended_tiles(block, SHAPE, (4, 8, 8), (0, 2, 2))
    found, _ = predict_blended(network, volume, tiles, block, (0, 2, 2))
    assert (found == before[:, *block.slices]).all()


@pytest.mark.parametrize("blend", [(0, 0, 0), (2, 0, 0)], ids=str)
def test_nor_does_a_block_that_the_region_of_interest_cuts(run, folder, tmp_path, blend):
    roi = Roi(offset=(1, 1, 1), shape=(2, 9, 3))
    before, step, _ = run("padded", settings={"blend": blend}, roi=roi)
    far = np.ones(SHAPE, bool)
    reach = Box(roi.offset, roi.shape).grow(step.lower, step.upper)
    far[reach.intersect(Box((0, 0, 0), SHAPE)).slices] = False
    assert far.any()
    raw = np.load(folder / "raw.npy")
    raw[far] = 255 - raw[far]
    np.save(tmp_path / "other.npy", raw)
    found, _, _ = run(
        "padded", "other", settings={"blend": blend}, roi=roi, raw=str(tmp_path / "other.npy")
    )
    assert (found == before).all()


def test_turned_tiles_are_blended_too(run):
    tile = (8, 12, 12)
    plain, _, _ = run("padded", "plain", tile)
    turned, _, _ = run("padded", "turned", tile, settings={"tta": "flips"})
    again, _, _ = run("padded", "again", tile, (16, 24, 24), settings={"tta": "flips"})
    assert (turned == again).all()
    assert (turned != plain).any()


def test_weights_of_neighbours_are_the_same_everywhere():
    for tile, blend in [(8, 2), (8, 4), (5, 1)]:
        total = np.zeros(6 * tile, np.int64)
        for index in range(1, 5):
            begin = index * tile - blend
            total[begin : begin + tile + 2 * blend] += weights(tile, blend)
        inner = total[2 * tile : 4 * tile]
        assert inner.max() - inner.min() <= 1
        assert (weights(tile, blend) == weights(tile, blend)[::-1]).all()


@pytest.mark.parametrize(
    ("blend", "message"),
    [
        ((1, 3, 2), r"predict.blend: \(1, 3, 2\) is not a multiple .* stride \(1, 2, 2\)"),
        ((-1, 2, 2), r"predict.blend: \(-1, 2, 2\) is not a multiple"),
        ((3, 4, 4), r"predict.blend: \(3, 4, 4\) is more than half of the tile \(4, 8, 8\)"),
    ],
)
def test_an_overlap_that_does_not_fit_is_refused(run, blend, message):
    with pytest.raises(ConfigError, match=message):
        run("valid", settings={"blend": blend})
