import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from tasks.kernels.malis import maximin_pairs
from tasks.losses.malis import Malis
from tasks.parts import Lesson
from tasks.targets.affinities import NEAREST, Affinities
from tasks.targets.distances import Distances

NEAR = Affinities(offsets=NEAREST)


def groups(n, edges):
    """The group of each of n voxels, by repeated relabelling."""
    group = list(range(n))
    for a, b in edges:
        old, new = group[a], group[b]
        group = [new if each == old else each for each in group]
    return group


def brute_force(affinities, joined, known):
    """Pairs per edge: for every pair, the first edge of the order that makes it connected."""
    shape = affinities.shape[1:]
    number = np.arange(affinities[0].size).reshape(shape)
    edges = []
    for edge, index in enumerate(np.ndindex(affinities.shape)):
        channel, place = index[0], list(index[1:])
        if known[index] and place[channel] > 0:
            before = list(place)
            before[channel] -= 1
            ends = number[tuple(before)], number[tuple(place)]
            edges.append((edge, ends, affinities[index], bool(joined[index])))
    objects = groups(number.size, [ends for _, ends, _, inside in edges if inside])
    in_object = [objects.count(each) > 1 for each in objects]
    found = []
    for constrained, same in ((lambda a, inside: a * inside, True), (max, False)):
        order = sorted(edges, key=lambda e: (-constrained(e[2], e[3]), not e[3], -e[2], e[0]))
        pairs = np.zeros(affinities.size, np.int64)
        for a, b in itertools.combinations(range(number.size), 2):
            if in_object[a] and in_object[b] and (objects[a] == objects[b]) == same:
                for count in range(1, len(order) + 1):
                    group = groups(number.size, [ends for _, ends, _, _ in order[:count]])
                    if group[a] == group[b]:
                        pairs[order[count - 1][0]] += 1
                        break
        found.append(pairs.reshape(affinities.shape))
    return found


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(1, 2, 4), (2, 2, 2), (1, 3, 3), (3, 1, 3), (1, 1, 7), (2, 3, 2)]),
    objects=st.integers(-1, 3),
    levels=st.sampled_from([1, 2, 3, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_pairs_are_those_of_all_pairs_maximin_edges(shape, objects, levels, seed):
    rng = np.random.default_rng(seed)
    # From background (-1) over unknown (0) to objects, which the crop may cut into parts.
    labels = rng.integers(-1, objects + 1, shape, endpoint=True).astype(np.int32)
    taught = NEAR.teach(
        np.pad(labels, 1, mode="reflect" if min(shape) > 1 else "edge"), (1,) * 3, (1,) * 3
    )
    affinities = (rng.integers(0, levels, (3, *shape)) / max(1, levels - 1)).astype(np.float32)
    found = maximin_pairs(affinities, taught.target, taught.known)
    expected = brute_force(affinities, taught.target, taught.known)
    assert found[0].tolist() == expected[0].tolist()
    assert found[1].tolist() == expected[1].tolist()


def chain(labels, affinities):
    """Known answers are written for a row of voxels: channel 2 of a volume of one row."""
    labels = np.array([[labels]], np.int32)
    values = np.zeros((3, *labels.shape), np.float32)
    values[2, 0, 0, 1:] = affinities
    taught = NEAR.teach(np.pad(labels, 1), (1, 1, 1), (1, 1, 1))
    positive, negative = maximin_pairs(values, taught.target, taught.known)
    assert not positive[:2].any()
    assert not negative[:2].any()
    return positive[2, 0, 0, 1:].tolist(), negative[2, 0, 0, 1:].tolist()


def test_the_weakest_edge_of_an_object_holds_all_pairs_across_it():
    assert chain([1, 1, 1, 1], [0.9, 0.2, 0.8]) == ([1, 4, 1], [0, 0, 0])


def test_the_edge_between_two_objects_holds_all_their_pairs():
    assert chain([1, 1, 2, 2, 2], [0.1, 0.7, 0.1, 0.3])[1] == [0, 6, 0, 0]


def test_background_is_on_the_way_but_in_no_pair():
    assert chain([1, 1, -1, -1, 2, 2], [1, 0.6, 0.2, 0.7, 1])[1] == [0, 0, 4, 0, 0]


def test_unknown_voxels_break_the_way():
    assert chain([1, 1, 0, 2, 2], [1, 1, 1, 1]) == ([1, 0, 0, 1], [0, 0, 0, 0])


def test_the_parts_of_an_object_that_the_crop_cuts_are_two():
    positive, negative = chain([1, 1, 2, 2, 1, 1], [1, 0.9, 1, 0.8, 1])
    assert positive == [1, 0, 1, 0, 1]
    assert negative == [0, 4, 0, 8, 0]


def test_of_equal_affinities_the_edge_of_smaller_index_comes_first():
    assert chain([1, 1, 1, 1], [0.5, 0.5, 0.5])[0] == [1, 2, 3]


def lesson(labels, target=NEAR):
    taught = target.teach(np.pad(labels, 1), (1, 1, 1), (1, 1, 1))
    whole = torch.from_numpy(taught.target)[None], torch.from_numpy(taught.known)[None]
    return Lesson(*whole, torch.from_numpy(labels)[None], target)


LABELS = np.array([[[1, 1, 1, 1, 2, 2, 2, 2]]], np.int32)


def test_the_gradient_goes_to_the_edges_that_decide():
    logits = torch.full((1, 3, *LABELS.shape), 3.0)
    logits[0, 2, 0, 0, 2] = -1.0  # a split in the middle of the first object
    logits[0, 2, 0, 0, 4] = 2.0  # a merger of the two
    logits.requires_grad_()
    loss = Malis()(logits, lesson(LABELS))
    loss.backward()
    gradient = logits.grad[0, 2, 0, 0]
    assert gradient[2] < 0 < gradient[4]
    assert gradient[2].abs() > 10 * gradient[[1, 3, 5, 6, 7]].abs().max()
    p = torch.sigmoid(torch.tensor([-1.0, 3.0, 2.0]))
    expected = 4 / 12 * (1 - p[0]) ** 2 + 8 / 12 * (1 - p[1]) ** 2 + p[2] ** 2
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_cross_entropy_is_steeper_where_the_network_is_sure_and_wrong():
    logits = torch.full((1, 3, *LABELS.shape), 9.0, requires_grad=True)
    gradients = []
    for error in ("squared", "bce"):
        Malis(error=error)(logits, lesson(LABELS)).backward()
        gradients.append(float(logits.grad[0, 2, 0, 0, 4]))
        logits.grad = None
    assert gradients[1] == pytest.approx(1, rel=1e-3)
    assert 0 < gradients[0] < 0.01


def test_the_loss_takes_what_a_network_gives_in_bfloat16_and_finds_its_channels():
    far = Affinities(offsets=[(0, 0, -2), *reversed(NEAREST)])
    taught = far.teach(np.pad(LABELS, 2), (2, 2, 2), (1, 1, 1))
    taken = Lesson(
        torch.from_numpy(taught.target)[None],
        torch.from_numpy(taught.known)[None],
        torch.from_numpy(LABELS)[None],
        far,
    )
    logits = torch.zeros((1, 4, *LABELS.shape), dtype=torch.bfloat16, requires_grad=True)
    Malis()(logits, taken).backward()
    assert logits.grad[0, 0].abs().sum() == logits.grad[0, 2:].abs().sum() == 0
    assert logits.grad[0, 1, 0, 0, 4] > 0


def test_a_crop_of_unknown_voxels_costs_nothing():
    logits = torch.zeros((1, 3, *LABELS.shape), requires_grad=True)
    assert float(Malis()(logits, lesson(np.zeros_like(LABELS))).detach()) == 0


@pytest.mark.parametrize("head", [Distances(scale=1), Affinities(offsets=[(0, 0, -1)])])
def test_a_head_without_nearest_affinities_is_refused(head):
    given = Lesson(torch.zeros(1), torch.zeros(1), torch.zeros(1), head)
    with pytest.raises(ConfigError, match=rf"malis needs .*a head of kind '{head.kind}'"):
        Malis()(torch.zeros(1, head.channels, 1, 1, 1), given)


@pytest.mark.parametrize("error", ["squared", "bce"])
def test_a_network_that_diverged_gets_a_loss_that_is_no_number(error):
    known = torch.ones(1, 3, 3, 3, 3, dtype=torch.bool)
    lesson = Lesson(known, known, torch.ones(1, 3, 3, 3, dtype=torch.int32), NEAR)
    logits = torch.full(known.shape, torch.nan)
    assert torch.isnan(Malis(error=error)(logits, lesson))
