import itertools

import numpy as np
import pytest
import torch

from pipeline.errors import ModelError
from pipeline.geometry import Box
from pipeline.volumes import open_volume
from tasks.networks.architecture import Bottom, Level, UnetArchitecture
from tasks.networks.augmented import Augmented, Symmetry, augmented_needs, symmetries
from tasks.networks.flow import predict_tiles
from tasks.networks.model import Description, Normalisation
from tasks.networks.predictor import Predictor
from tasks.networks.tile import Needs
from tasks.targets.affinities import NEAREST, Affinities
from tasks.targets.distances import Distances
from tasks.tiles import cores

THREE = (3, 3, 3)
ISOTROPIC = Description(
    network=UnetArchitecture(
        levels=[Level(channels=3, down=[THREE], up=[THREE], factor=(2, 2, 2))],
        bottom=Bottom(channels=4, kernels=[THREE]),
    ),
    heads={
        "affinities": Affinities(offsets=NEAREST),
        "far": Affinities(offsets=[(-3, 0, 0), (0, -3, 0), (0, 0, -3), (0, -1, -1)]),
        "distances": Distances(scale=50),
    },
    voxel_size=(10, 10, 10),
    dtype="uint8",
    normalisation=Normalisation(mean=128, std=40),
)
# Neither stride nor context is the same on all axes.
ANISOTROPIC = ISOTROPIC.model_copy(
    update={
        "network": UnetArchitecture(
            levels=[Level(channels=3, down=[(1, 3, 5)], up=[THREE], factor=(1, 2, 3))],
            bottom=Bottom(channels=4, kernels=[THREE]),
        ),
        "voxel_size": (40, 10, 10),
    }
)
CPU = torch.device("cpu")


def predictor(description, head, precision="float32"):
    torch.manual_seed(1)
    network = description.network.build(description.channels(), plain=True)
    for module in network.heads.values():
        module.weight.data *= 20
    return Predictor(description, network.eval(), head, CPU, precision)


def augmented(description, head, which="all", precision="float32"):
    inner = predictor(description, head, precision)
    return Augmented(inner, symmetries(which, description.voxel_size, inner.head))


def turned_prediction(symmetry, head, values):
    """The prediction that belongs to a turned volume, and where it is known.

    An affinity whose other voxel lies outside is not known.
    """
    expected = np.zeros((values.shape[0], *symmetry.permuted(values.shape[1:])), values.dtype)
    known = np.zeros(expected.shape, bool)
    offsets = head.offsets if isinstance(head, Affinities) else [(0, 0, 0)]
    size = np.array(values.shape[1:])
    for channel, offset in enumerate(offsets):
        moved = symmetry.vector(offset)
        there = next(c for c, o in enumerate(offsets) if o in (moved, tuple(-m for m in moved)))
        for voxel in itertools.product(*map(range, values.shape[1:])):
            ends = [np.array(voxel), np.array(voxel) + offset]
            if (ends[1] < 0).any() or (ends[1] >= size).any():
                continue
            # Both ends turn with the volume; the affinity stands at one of them.
            places = []
            for end in ends:
                place = [end[axis] for axis in symmetry.axes]
                flipped = [
                    size[axis] - 1 - p if flip else p
                    for p, axis, flip in zip(place, symmetry.axes, symmetry.flips, strict=True)
                ]
                places.append(tuple(flipped))
            here = places[0] if offsets[there] == moved else places[1]
            expected[(there, *here)] = values[(channel, *voxel)]
            known[(there, *here)] = True
    return expected, known


@pytest.mark.parametrize(
    ("voxel_size", "which", "number"),
    [
        ((10, 10, 10), "none", 1),
        ((10, 10, 10), "flips", 8),
        ((10, 10, 10), "all", 48),
        ((40, 10, 10), "flips", 8),
        ((40, 10, 10), "all", 16),
        ((40, 20, 10), "all", 8),
    ],
)
def test_the_voxels_say_how_many_elements_there_are(voxel_size, which, number):
    group = symmetries(which, voxel_size, Affinities(offsets=NEAREST))
    assert len(set(group)) == len(group) == number
    assert group[0] == Symmetry((0, 1, 2), (False, False, False))


def test_elements_that_make_other_offsets_are_left_out():
    """(0, -1, -1) becomes (0, 1, -1) under one flip, which is no channel."""
    assert len(symmetries("all", (10, 10, 10), ISOTROPIC.head("far"))) == 8
    assert len(symmetries("flips", (10, 10, 10), ISOTROPIC.head("far"))) == 4
    long = Affinities(offsets=[(-1, 0, 0), (0, -3, 0), (0, 0, -3)])
    assert len(symmetries("all", (10, 10, 10), long)) == 16


def test_undoing_gives_the_tile_back():
    x = torch.arange(24.0).reshape(2, 3, 4)
    for symmetry in symmetries("all", (1, 1, 1), Distances(scale=1)):
        assert (symmetry.undo(symmetry.apply(x)) == x).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("head", ["affinities", "far", "distances"])
@pytest.mark.parametrize("name", ["isotropic", "anisotropic"])
def test_on_a_turned_tile_the_mean_is_turned_exactly(name, head, precision):
    description = {"isotropic": ISOTROPIC, "anisotropic": ANISOTROPIC}[name]
    network = augmented(description, head, precision=precision)
    number = {"far": 8, "distances": 48, "affinities": 48}[head]
    assert len(network.group) == network.count == min(number, 48 if name == "isotropic" else 16)
    needs = network.needs
    core = (6, 6, 6) if name == "isotropic" else (3, 6, 6)
    shape = tuple(n + 2 * c for n, c in zip(core, needs.context, strict=True))
    raw = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    straight = network.submit(raw)()
    assert straight.std() > 4
    for symmetry in network.group:
        turned = symmetry.apply(torch.from_numpy(raw)).numpy()
        expected, known = turned_prediction(symmetry, network.head, straight)
        found = network.submit(turned)()
        assert known.any()
        assert (found[known] == expected[known]).all()


def test_one_element_of_the_group_is_the_network_itself():
    plain = predictor(ISOTROPIC, "affinities")
    alone = Augmented(plain, symmetries("none", (10, 10, 10), plain.head))
    assert alone.needs == plain.needs
    shape = tuple(8 + 2 * c for c in plain.needs.context)
    raw = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    assert np.abs(alone.submit(raw)().astype(int) - plain.submit(raw)()).max() <= 1


def test_the_mean_is_that_of_the_networks_own_probabilities():
    """By a loop over whole tiles, in floats."""
    description = ANISOTROPIC
    network = augmented(description, "distances", "all")
    inner = network.inner
    core = (2, 6, 6)
    shape = tuple(n + 2 * c for n, c in zip(core, network.needs.context, strict=True))
    raw = torch.from_numpy(np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8))
    total = 0
    for symmetry in network.group:
        turned = symmetry.apply(raw)
        size = symmetry.permuted(core)
        spare = [
            (n - s - 2 * c) // 2
            for n, s, c in zip(turned.shape, size, inner.needs.context, strict=True)
        ]
        z, y, x = (slice(m, n - m) for m, n in zip(spare, turned.shape, strict=True))
        with torch.inference_mode():
            total = total + symmetry.undo(inner.levels(turned[z, y, x].contiguous()).double())
    expected = (total / 65535 / len(network.group) * 255).numpy()
    assert np.abs(network.submit(raw.numpy())() - expected).max() <= 0.5 + 1e-6


def test_tiles_do_not_show(tmp_path):
    np.save(tmp_path / "raw.npy", np.random.default_rng(2).integers(0, 256, (12, 16, 14), "uint8"))
    raw = open_volume(str(tmp_path / "raw.npy"), voxel_size=(10, 10, 10))
    network = augmented(ISOTROPIC, "affinities", "flips")
    box = Box((0, 0, 0), raw.shape)
    found = [
        predict_tiles(network, raw, cores(box, box, tile, network.needs.stride), box)[0].astype(int)
        for tile in [(4, 6, 8), (12, 16, 14)]
    ]
    assert np.abs(found[0] - found[1]).max() <= 1


def test_on_a_turned_volume_the_mean_is_turned(tmp_path):
    """Across tiles as far as the network's arithmetic does not know its tile."""
    network = augmented(ISOTROPIC, "affinities", "flips")
    values = np.random.default_rng(2).integers(0, 256, (8, 12, 8), "uint8")
    found = []
    symmetry = network.group[5]
    for name, volume in [
        ("straight", values),
        ("turned", symmetry.apply(torch.from_numpy(values)).numpy()),
    ]:
        np.save(tmp_path / f"{name}.npy", volume)
        raw = open_volume(str(tmp_path / f"{name}.npy"), voxel_size=(10, 10, 10))
        box = Box((0, 0, 0), raw.shape)
        tiles = cores(box, box, (4, 4, 4), network.needs.stride)
        found.append(predict_tiles(network, raw, tiles, box)[0])
    expected, known = turned_prediction(symmetry, network.head, found[0])
    assert np.abs(expected[known].astype(int) - found[1][known]).max() <= 1


def test_axes_that_change_places_need_as_much():
    head = Affinities(offsets=[(-1, 0, 0), (0, -5, 0), (0, 0, -5)])
    group = symmetries("all", (40, 10, 10), head)
    needs = augmented_needs(Needs((1, 2, 3), (4, 5, 6)), head, group)
    assert needs.stride == (1, 6, 6)
    assert needs.grown == (1, 6, 6)
    assert needs.context == (5, 12, 12)


def test_a_group_of_another_head_is_refused():
    inner = predictor(ISOTROPIC, "far")
    with pytest.raises(ModelError, match=r"take the group from symmetries\(\)"):
        Augmented(inner, symmetries("all", (10, 10, 10), Distances(scale=1)))
