"""The overview gives an object one colour in labels and truth."""

import io

import numpy as np
from matplotlib.image import imread

from tasks.colours import colours, outlines, over_grey
from tasks.overview import Overview, draw, matched


def test_colours_depend_on_the_id_only():
    ids = np.array([[0, 5, 2**62 + 7], [5, 6, 7]], np.uint64)
    found = colours(ids)
    assert found.shape == (2, 3, 3)
    np.testing.assert_array_equal(found[0, 1], found[1, 0])
    np.testing.assert_array_equal(colours(ids[1:]), found[1:])
    assert not found[0, 0].any()


def test_neighbouring_ids_are_told_apart():
    # Ids of neighbouring segments are packed coordinates that differ in few bits.
    packed = (np.arange(4)[:, None] << 21 | np.arange(16)).ravel() + (3 << 42) + 1
    found = colours(packed)
    apart = np.abs(found[:, None] - found[None]).sum(axis=-1) + 9 * np.eye(64)
    assert (apart.min(axis=1) > 0.01).all()
    assert np.median(apart.min(axis=1)) > 0.05


def test_outlines_follow_the_segments():
    ids = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]])
    expected = [[False, True, False], [True, True, True], [False, False, False]]
    assert outlines(ids).tolist() == expected
    assert over_grey(ids, np.zeros((3, 3), np.uint8)).max() <= 1


def test_truth_takes_the_ids_of_the_labels_that_found_it():
    truth = np.array([[[0, 4, 4, 4, 5, 5, 6]]])
    labels = np.array([[[1, 1, 2, 2, 2, 2, 0]]])
    assert matched(truth, labels).tolist() == [[[0, 2, 2, 2, 2, 2, 6 + (1 << 63)]]]


def test_the_picture_can_be_read():
    shape = (6, 20, 24)
    labels = np.arange(6 * 20 * 24).reshape(shape) // 480
    overview = Overview(
        raw=np.full(shape, 128, np.uint8),
        affinities=np.full((3, *shape), 200, np.uint8),
        labels=labels,
        truth=labels,
        block=(4, 8, 8),
        voxel_size=(40.0, 10.0, 10.0),
    )
    picture = imread(io.BytesIO(draw(overview, "a title", sections=2)))
    assert picture.shape[1] > picture.shape[0] > 300
