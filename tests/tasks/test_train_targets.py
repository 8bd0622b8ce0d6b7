import numpy as np
import pytest
import torch

from tasks.train.augment import Augment, Orientation, intensities, orientation
from tasks.train.losses import affinity_loss, distance_loss
from tasks.train.targets import affinities, border, signed_distance, without_dust

OFF = Augment(flip=False, transpose=False, contrast=0, brightness=0, gamma=0, noise=0)


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_dust_and_0_become_unknown_and_the_rest_consecutive():
    labels = np.array([[[7, 7, 7], [0, 9, 3], [3, 3, 0]]], np.uint32)
    assert without_dust(labels, 2).tolist() == [[[2, 2, 2], [0, 0, 1], [1, 1, 0]]]


def test_the_border_is_where_two_known_objects_touch():
    labels = np.array([[[1, 1, 1, 2, 2, 0, 3]]], np.int32)
    assert border(labels).tolist() == [[[False, False, True, True, False, False, False]]]


def test_distances_are_in_nm_and_negative_in_the_border():
    at_border = np.zeros((1, 1, 5), bool)
    at_border[..., 2] = True
    found = signed_distance(at_border, (40.0, 4.0, 4.0))
    assert found.tolist() == [[[8, 4, -4, 4, 8]]]


def test_without_a_border_everything_is_far_inside():
    assert np.isinf(signed_distance(np.zeros((2, 2, 2), bool), (4, 4, 4))).all()


@pytest.mark.parametrize("offset", [(-1, 0, 0), (0, -2, 0), (1, 2, -3)])
def test_affinities_are_those_of_a_voxel_and_its_neighbour(offset, rng):
    reach = (1, 2, 3)
    labels = rng.integers(0, 3, (6, 8, 10)).astype(np.int32)
    target, known = affinities(labels, border(labels), [offset], reach, erode=False)
    assert target.shape == known.shape == (1, 4, 4, 4)
    for index in np.ndindex(4, 4, 4):
        here = labels[tuple(np.add(index, reach))]
        there = labels[tuple(np.add(np.add(index, reach), offset))]
        assert known[0][index] == (here != 0 and there != 0)
        assert target[0][index] == (here == there)


def test_eroded_affinities_are_0_at_the_border():
    labels = np.array([[[1, 1, 1, 1, 2, 2, 2, 2]]], np.int32)
    target, _ = affinities(labels, border(labels), [(0, 0, -1)], (0, 0, 1), erode=True)
    assert target.tolist() == [[[[True, True, False, False, False, True]]]]


def test_orientations_keep_voxels_of_other_size_apart(rng):
    found = {orientation(Augment(), (40.0, 4.0, 4.0), rng).axes for _ in range(50)}
    assert found == {(0, 1, 2), (0, 2, 1)}
    found = {orientation(Augment(), (8.0, 8.0, 8.0), rng).axes for _ in range(200)}
    assert len(found) == 6
    assert orientation(OFF, (8.0, 8.0, 8.0), rng) == Orientation()


@pytest.mark.parametrize("axes", [(0, 2, 1), (1, 2, 0), (2, 0, 1)])
def test_an_orientation_gives_the_shape_that_was_asked_for(axes):
    turn = Orientation(axes=axes, flips=(True, False, True))
    cut = np.arange(24).reshape(turn.before((2, 3, 4)))
    turned = turn.apply(cut)
    assert turned.shape == (2, 3, 4)
    assert sorted(turned.ravel()) == sorted(cut.ravel())
    assert turned[-1, 0, -1] == cut[0, 0, 0]


def test_intensities_change_only_as_asked(rng):
    raw = rng.normal(0, 1, (4, 4, 4)).astype(np.float32)
    assert intensities(raw, OFF, rng) == pytest.approx(raw, abs=1e-6)
    for name in ("contrast", "brightness", "gamma", "noise"):
        changed = intensities(raw, OFF.model_copy(update={name: 0.5}), rng)
        assert changed.dtype == np.float32
        assert np.abs(changed - raw).max() > 1e-5, name


def test_unknown_edges_have_no_weight():
    logits = torch.tensor([3.0, -2.0, 1.0]).reshape(1, 1, 1, 1, 3)
    target = torch.tensor([True, False, True]).reshape_as(logits)
    known = torch.tensor([True, True, False]).reshape_as(logits)
    parameters = {"balance": 1.0, "smoothing": 0.0}
    loss = affinity_loss(logits, target, known, **parameters)
    assert loss == affinity_loss(-logits * ~known + logits * known, target, known, **parameters)
    expected = (np.log1p(np.exp(-3)) + np.log1p(np.exp(-2))) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    nothing = affinity_loss(logits, target, torch.zeros_like(known), **parameters)
    assert float(nothing) == 0


def test_the_rarer_class_counts_more_but_not_without_limit():
    target = torch.ones(1, 1, 1, 1, 100, dtype=torch.bool)
    target[..., 0] = False
    known = torch.ones_like(target)
    logits = torch.zeros(target.shape, requires_grad=True)
    affinity_loss(logits, target, known, balance=4.0, smoothing=0.0).backward()
    gradient = logits.grad.ravel()
    assert float(-gradient[0] / gradient[1]) == pytest.approx(4.0, rel=1e-4)


def test_the_distance_loss_is_0_where_it_is_right_or_unknown():
    distance = torch.tensor([25.0, torch.inf, 10.0]).reshape(1, 1, 1, 1, 3)
    logits = torch.tensor([0.5, 20.0, -3.0]).reshape_as(distance)
    known = torch.tensor([True, True, False]).reshape_as(distance)
    assert float(distance_loss(logits, distance, known, scale=50.0)) == pytest.approx(0, abs=1e-9)
    assert float(distance_loss(logits, distance, ~known, scale=50.0)) > 1
