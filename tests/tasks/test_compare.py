"""`raphe compare` shows where two segmentations differ, and nothing but that."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import VolumeError
from pipeline.geometry import Box
from pipeline.volumes import open_volume
from tasks.evaluate import contingency
from tasks.evaluate.command import compare
from tasks.evaluate.difference import Matching
from tasks.evaluate.seams import LARGEST, central

shapes = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)


def difference(a, b):
    return Matching.of(contingency(a, b, (a != 0) | (b != 0))).differs(a, b)


@given(hnp.arrays(np.uint64, shapes, elements=st.integers(0, 4)))
def test_other_ids_are_no_difference(a):
    renamed = np.where(a == 0, 0, (a * 7919) % 104729)
    assert not difference(a, renamed).any()


@given(st.data(), shapes)
def test_it_does_not_matter_which_comes_first(data, shape):
    a, b = (data.draw(hnp.arrays(np.uint64, shape, elements=st.integers(0, 4))) for _ in "ab")
    one, other = difference(a, b), difference(b, a)
    np.testing.assert_array_equal(one, other)


def test_the_smaller_part_of_a_split_and_of_a_merge_differs():
    whole = np.array([1, 1, 1, 1, 1])
    split = np.array([7, 7, 8, 8, 8])
    np.testing.assert_array_equal(difference(whole, split), split == 7)
    np.testing.assert_array_equal(difference(split, whole), split == 7)


def test_background_in_one_volume_differs_and_in_both_does_not():
    a, b = np.array([0, 0, 1, 1]), np.array([0, 5, 0, 6])
    assert difference(a, b).tolist() == [False, True, True, False]


@pytest.fixture
def seamed(tmp_path):
    """Two stripes along x, and the same cut and renamed at x = 8."""
    whole = np.ones((4, 6, 16), np.uint64)
    whole[:, 3:] = 2
    cut = whole * 10
    cut[:, :3, 10:] = 99
    np.save(tmp_path / "whole.npy", whole)
    np.save(tmp_path / "cut.npy", cut)
    return str(tmp_path / "whole.npy"), str(tmp_path / "cut.npy")


def run(*arguments):
    result = CliRunner().invoke(
        compare, [*arguments, "--json", "--workers", "1"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_the_map_and_the_counts_agree(seamed, tmp_path):
    result = run(*seamed, "--map", str(tmp_path / "map.zarr"), "--block", "4,4,8")
    found = open_volume(str(tmp_path / "map.zarr")).read(Box((0, 0, 0), (4, 6, 16)))
    expected = np.zeros((4, 6, 16), np.uint8)
    expected[:, :3, 10:] = 1
    np.testing.assert_array_equal(found, expected)
    assert result["n_differing"] == expected.sum()
    assert result["voi_merge"] == 0
    assert result["voi_split"] > 0


def test_a_map_keeps_nothing_of_an_earlier_one(seamed, tmp_path):
    place = ("--map", str(tmp_path / "map.zarr"), "--block", "4,4,8")
    run(*seamed, *place)
    run(*seamed, *place, "--roi", "0:4,4:6,0:16")
    assert not open_volume(str(tmp_path / "map.zarr")).read(Box((0, 0, 0), (4, 6, 16))).any()


def test_equal_volumes(seamed):
    result = run(seamed[0], seamed[0])
    assert (result["voi"], result["adapted_rand_error"], result["n_differing"]) == (0, 0, 0)


def test_a_picture(seamed, tmp_path):
    run(*seamed, "--png", str(tmp_path / "seams.png"), "--roi", "1:4,0:6,2:16")
    assert (tmp_path / "seams.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_the_middle_of_a_large_region():
    assert central(Box((5, 0, 0), (4, 6, 9))) == Box((5, 0, 0), (4, 6, 9))
    assert central(Box((0, 0, 100), (10**6, 800, 9))).shape == (LARGEST[0], 768, 9)
    assert central(Box((0, 0, 100), (10**6, 800, 9))).offset == (499936, 16, 100)


def test_other_shapes_are_refused(seamed, tmp_path):
    np.save(tmp_path / "other.npy", np.ones((4, 6, 15), np.uint8))
    with pytest.raises(VolumeError, match="has shape"):
        run(seamed[0], str(tmp_path / "other.npy"))
