"""Scores equal scikit-image's, and stay exact where floats would not."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import adapted_rand_error, variation_of_information

from pipeline.errors import VolumeError
from tasks.evaluate import Contingency, contingency, score


@given(
    st.data(),
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9),
    st.integers(1, 12),
)
def test_equal_to_scikit_image_on_whole_volumes(data, shape, n):
    truth = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, n)))
    labels = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, n)))
    assume(truth.any())
    scores = score(contingency(truth, labels))

    split, merge = variation_of_information(truth, labels, ignore_labels=[0])
    assert scores.voi_split == pytest.approx(split, abs=1e-9)
    assert scores.voi_merge == pytest.approx(merge, abs=1e-9)
    sizes = [np.unique(v[truth != 0], return_counts=True)[1] for v in (truth, labels)]
    if max(size.max() for size in sizes) > 1:  # else there are no pairs
        with np.errstate(invalid="ignore"):  # its precision and recall may be 0 / 0
            error, _, _ = adapted_rand_error(truth, labels, ignore_labels=[0])
        assert scores.adapted_rand_error == pytest.approx(error, abs=1e-9)


def test_a_split_is_no_merge_and_the_other_way_round():
    whole, halves = np.ones(8, int), np.repeat([1, 2], 4)
    split, merged = score(contingency(whole, halves)), score(contingency(halves, whole))
    assert (split.voi_split, split.voi_merge) == (1.0, 0.0)
    assert (merged.voi_split, merged.voi_merge) == (0.0, 1.0)
    assert split.adapted_rand_error == merged.adapted_rand_error == 1 - 24 / (0.5 * (56 + 24))


def test_ids_do_not_matter():
    truth = np.repeat([3, 1, 2], [4, 5, 6])
    scores = score(contingency(truth, truth * 2**40))
    assert (scores.voi, scores.adapted_rand_error, scores.cremi_score) == (0, 0, 0)
    assert (scores.n_voxels, scores.n_truth, scores.n_labels) == (15, 3, 3)


def test_cremi_score_is_the_geometric_mean():
    scores = score(contingency(np.array([1, 1, 1, 2]), np.array([1, 1, 2, 2])))
    assert scores.cremi_score**2 == pytest.approx(scores.voi * scores.adapted_rand_error)
    assert scores.as_dict()["cremi_score"] == scores.cremi_score > 0


def test_pairs_of_a_teravoxel_are_counted_exactly():
    n = 10**12
    one = np.array([1, 1], np.uint64)
    table = Contingency(one, np.array([1, 2], np.uint64), np.array([n, 1]))
    assert score(table).adapted_rand_error == pytest.approx(1e-12, rel=1e-6)


def test_nothing_to_score_is_an_error():
    with pytest.raises(VolumeError, match="no voxel to score: the truth is 0"):
        score(contingency(np.zeros(3, int), np.ones(3, int)))
