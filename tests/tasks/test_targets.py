import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tasks.registry import parts
from tasks.targets.affinities import NEAREST, Affinities
from tasks.targets.boundary import BACKGROUND, Boundary, border
from tasks.targets.distances import Distances, signed_distance

CUBES = (10.0, 10.0, 10.0)
SECTIONS = (40.0, 4.0, 4.0)
TARGETS = [
    Affinities(offsets=[*NEAREST, (0, 3, -2)]),
    Affinities(offsets=[(2, 0, 0), (0, 0, -4)], erode=True),
    Distances(scale=20),
    Distances(scale=50, clip=30),
    Boundary(),
]


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def tissue(rng, shape):
    """Blobs of several objects, background and unknown voxels."""
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    edges = np.quantile(smooth, [0.1, 0.2, 0.5, 0.8])
    return (np.digitize(smooth, edges) + BACKGROUND).astype(np.int32)


def test_the_border_is_background_and_where_two_known_objects_touch():
    labels = np.array([[[1, 1, 1, 2, 2, 0, 3, -1, 3]]], np.int32)
    expected = [False, False, True, True, False, False, False, True, False]
    assert border(labels, CUBES).tolist() == [[expected]]


def test_sections_that_lie_far_apart_make_no_border():
    labels = np.array([[[1, 1, 1]], [[2, 2, 2]], [[2, 2, 3]]], np.int32)
    assert border(labels, CUBES).all(axis=(1, 2)).tolist() == [True, True, False]
    assert border(labels, SECTIONS).tolist() == [
        [[False, False, False]],
        [[False, False, False]],
        [[False, True, True]],
    ]


@pytest.mark.parametrize("offset", [(-1, 0, 0), (0, -2, 0), (1, 2, -3)])
def test_affinities_are_those_of_a_voxel_and_its_neighbour(offset, rng):
    reach = (1, 2, 3)
    labels = rng.integers(-1, 3, (6, 8, 10)).astype(np.int32)
    taught = Affinities(offsets=[offset]).teach(labels, reach, CUBES)
    assert taught.target.shape == taught.known.shape == (1, 4, 4, 4)
    for index in np.ndindex(4, 4, 4):
        here = labels[tuple(np.add(index, reach))]
        there = labels[tuple(np.add(np.add(index, reach), offset))]
        assert taught.known[0][index] == (here != 0 and there != 0)
        assert taught.target[0][index] == (here == there > 0)


def test_eroded_affinities_are_0_at_the_border():
    labels = np.array([[[1, 1, 1, 1, 2, 2, 2, 2]]], np.int32)
    target = Affinities(offsets=[(0, 0, -1)], erode=True)
    assert target.reach(CUBES) == (1, 1, 2)
    taught = target.teach(labels, (0, 0, 1), CUBES)
    assert taught.target.tolist() == [[[[True, True, False, False, False, True]]]]
    assert taught.known.all()


@pytest.mark.parametrize("voxel_size", [CUBES, SECTIONS, (12.0, 4.0, 5.0)])
def test_distances_are_in_nm_and_those_of_scipy(voxel_size, rng):
    at_border = rng.random((9, 20, 24)) > 0.9
    expected = ndimage.distance_transform_edt(~at_border, sampling=voxel_size)
    expected -= ndimage.distance_transform_edt(at_border, sampling=voxel_size)
    assert signed_distance(at_border, voxel_size) == pytest.approx(expected, rel=1e-5)


def test_distances_are_squashed_and_clipped():
    labels = np.array([[[1] * 6 + [2] * 2]], np.int32)
    taught = Distances(scale=10, clip=20).teach(labels, (0, 0, 0), CUBES)
    nm = 10 * np.arctanh(2 * taught.target[0, 0, 0] - 1)
    assert nm == pytest.approx([20, 20, 20, 20, 10, -10, -10, 10], abs=1e-3)
    assert taught.target.dtype == np.float32


def test_without_a_border_everything_is_far_inside():
    assert np.isinf(signed_distance(np.zeros((2, 2, 2), bool), CUBES)).all()
    taught = Distances(scale=10).teach(np.ones((3, 3, 3), np.int32), (1, 1, 1), CUBES)
    assert taught.target == pytest.approx((1 + np.tanh(2.5)) / 2)


def test_distances_reach_as_far_as_they_tell_but_not_without_limit():
    assert Distances(scale=50).reach(CUBES) == (14, 14, 14)
    assert Distances(scale=50, clip=40).reach(SECTIONS) == (2, 11, 11)
    assert Distances(scale=5000).reach(CUBES) == (65, 65, 65)


def test_the_boundary_is_not_inside():
    labels = np.array([[[1, 1, 2, 2, 2, -1, 0]]], np.int32)
    taught = Boundary().teach(labels, (0, 0, 0), CUBES)
    assert taught.target[0, 0, 0, :6].tolist() == [True, False, False, True, True, False]
    assert taught.known[0, 0, 0].tolist() == [True] * 6 + [False]


@settings(max_examples=20, deadline=None)
@given(
    target=st.sampled_from(TARGETS),
    voxel_size=st.sampled_from([CUBES, SECTIONS]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_core_is_taught_the_same_whatever_lies_beyond_its_reach(target, voxel_size, seed):
    rng = np.random.default_rng(seed)
    reach = target.reach(voxel_size)
    labels = tissue(rng, tuple(4 + 2 * r for r in reach))
    wider = rng.integers(-1, 9, [n + 6 for n in labels.shape]).astype(np.int32)
    wider[3:-3, 3:-3, 3:-3] = labels
    taught = target.teach(labels, reach, voxel_size)
    again = target.teach(wider, tuple(r + 3 for r in reach), voxel_size)
    assert taught.target.shape == taught.known.shape == (target.channels, 4, 4, 4)
    assert taught.target.astype(float) == pytest.approx(again.target.astype(float), abs=1e-5)
    assert (taught.known == again.known).all()


@settings(max_examples=20, deadline=None)
@given(target=st.sampled_from(TARGETS), seed=st.integers(0, 2**32 - 1))
def test_what_is_taught_can_be_predicted_and_is_in_reach_of_uint8(target, seed):
    rng = np.random.default_rng(seed)
    reach = target.reach(CUBES)
    taught = target.teach(tissue(rng, tuple(3 + 2 * r for r in reach)), reach, CUBES)
    found = target.probabilities(torch.linspace(-30, 30, 601, dtype=torch.float64))
    assert found.dtype == torch.float32
    assert [float(found.min()), float(found.max())] == pytest.approx([0, 1], abs=1e-9)
    assert taught.target.min() >= 0
    assert taught.target.max() <= 1
    assert target.quantise(torch.tensor([-50.0, 0.0, 50.0])).tolist() == [0, 128, 255]


def test_what_is_written_of_shipped_models_stays_bit_for_bit(rng):
    logits = torch.from_numpy(rng.normal(0, 3, 100_000))
    written = torch.sigmoid(logits.float()).mul_(255.0).round_().to(torch.uint8)
    assert torch.equal(Affinities(offsets=NEAREST).quantise(logits), written)
    written = torch.tanh(logits.float()).add_(1.0).mul_(127.5).round_().to(torch.uint8)
    assert torch.equal(Distances(scale=50).quantise(logits), written)


def test_an_array_of_distances_says_how_it_is_read():
    target = Distances(scale=50)
    value = target.quantise(torch.tensor([30.0 / 50]))
    assert target.attributes()["scale"] == 50
    assert 50 * np.arctanh(value.numpy() / 127.5 - 1) == pytest.approx(30.0, abs=0.5)


@pytest.mark.parametrize("name", ["targets", "losses", "augmentations"])
def test_parts_are_registered_under_their_kind_and_described(name):
    for kind, part in parts(name).items():
        assert part.model_fields["kind"].default == kind
        assert all(field.description for field in part.model_fields.values())
        assert (part.__doc__ or "").splitlines()[0].endswith(".")
