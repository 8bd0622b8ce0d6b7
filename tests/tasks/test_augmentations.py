import dataclasses

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from tasks.augmentations.intensity import Blur, Brightness, Contrast, Gamma, Noise
from tasks.augmentations.sections import (
    Charging,
    Duplicated,
    LowContrast,
    Missing,
    OutOfFocus,
    Shifted,
    Torn,
)
from tasks.augmentations.spatial import Elastic, Flip, Rotate, Transpose
from tasks.kernels.warp import linear, nearest
from tasks.parts import Crop

CUBES, SECTIONS = (10.0, 10.0, 10.0), (40.0, 4.0, 4.0)
INTENSITIES = [Contrast, Brightness, Gamma, Noise, Blur]
DAMAGES = [Missing, Duplicated, LowContrast, OutOfFocus, Charging]
MOVES = [Flip, Transpose, Rotate, Elastic, Shifted, Torn]
SEEDS = range(4)
RAW, LABELS = (40, 48, 48), (32, 40, 40)


def random(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def crop():
    """Noise."""
    rng = random()
    labels = rng.integers(0, 9, LABELS).astype(np.int32)
    return Crop(rng.normal(0, 1, RAW).astype(np.float32), labels, CUBES)


@pytest.fixture
def picture():
    """Raw data that show the labels, which are objects of some size."""
    smooth = ndimage.gaussian_filter(random(1).normal(size=RAW), 6)
    labels = (np.digitize(smooth, np.quantile(smooth, [0.25, 0.5, 0.75])) + 1).astype(np.int32)
    return Crop(labels.astype(np.float32), middle(labels, LABELS).copy(), CUBES)


def middle(array, shape):
    """The middle of `array`, of a shape."""
    cut = ((n - s) // 2 for n, s in zip(array.shape, shape, strict=True))
    return array[tuple(slice(c, c + s) for c, s in zip(cut, shape, strict=True))]


def trimmed(array, margin):
    return middle(array, [n - 2 * m for n, m in zip(array.shape, margin, strict=True)])


def changed_sections(before, after):
    return np.flatnonzero((before != after).any(axis=(1, 2))).tolist()


@pytest.mark.parametrize("voxel_size", [CUBES, SECTIONS])
@pytest.mark.parametrize("kind", [*INTENSITIES, *DAMAGES, *MOVES])
def test_every_augmentation_takes_its_margin_off_and_leaves_its_input_alone(kind, voxel_size, crop):
    crop = dataclasses.replace(crop, voxel_size=voxel_size)
    raw, labels = crop.raw.copy(), crop.labels.copy()
    for probability in (1.0, 1e-12):
        augmentation = kind(probability=probability)
        margin = augmentation.margin(voxel_size)
        found = augmentation.apply(crop, random())
        again = augmentation.apply(crop, random())
        assert (found.raw == again.raw).all()
        assert (found.labels == again.labels).all()
        assert found.raw.shape == trimmed(raw, margin).shape
        assert found.labels.shape == trimmed(labels, margin).shape
        assert (found.raw.dtype, found.labels.dtype) == (np.float32, np.int32)
        assert np.isfinite(found.raw).all()
    assert (found.raw == trimmed(raw, margin)).all()
    assert (found.labels == trimmed(labels, margin)).all()
    assert (crop.raw == raw).all()
    assert (crop.labels == labels).all()


@pytest.mark.parametrize("kind", [*INTENSITIES, *DAMAGES])
def test_what_changes_intensities_leaves_labels_alone(kind, crop):
    found = [kind(probability=1).apply(crop, random(seed)) for seed in SEEDS]
    assert all(each.labels is crop.labels for each in found)
    assert any((each.raw != crop.raw).any() for each in found)


@pytest.mark.parametrize("kind", MOVES)
def test_labels_go_where_raw_data_go(kind, picture):
    options = {Shifted: {"slips": 0}, Rotate: {"room": 4}}.get(kind, {})
    moved = 0
    for seed in range(8):
        augmentation = kind(probability=1, **options)
        found = augmentation.apply(picture, random(seed))
        shown = middle(found.raw, found.labels.shape)
        known = found.labels > 0
        # Raw data are interpolated between two labels, and labels rounded to one of them; and
        # the margin of a section that is torn shows the others.
        clear = known & (ndimage.maximum_filter(shown, 3) == ndimage.minimum_filter(shown, 3))
        same = ndimage.maximum_filter(found.labels, 3) == ndimage.minimum_filter(found.labels, 3)
        assert (shown[clear] == found.labels[clear]).all()
        away = np.abs(shown - found.labels)[same & known]
        assert (away < 0.5).mean() > 0.99
        assert clear.mean() > 0.1
        assert set(np.unique(found.labels)) <= {0, *np.unique(picture.labels)}
        moved += (found.labels != trimmed(picture.labels, augmentation.margin(CUBES))).any()
    assert moved >= 4


def test_contrast_multiplies_and_brightness_adds(crop):
    for seed in SEEDS:
        factor = Contrast(strength=0.5).apply(crop, random(seed)).raw / crop.raw
        assert factor == pytest.approx(factor[0, 0, 0], rel=1e-5)
        assert np.exp(-0.5) <= factor[0, 0, 0] <= np.exp(0.5)
        shift = Brightness(strength=0.5).apply(crop, random(seed)).raw - crop.raw
        assert shift == pytest.approx(shift[0, 0, 0], abs=1e-5)
        assert 0 < abs(shift[0, 0, 0]) <= 0.5


def test_gamma_keeps_order_and_the_ends_of_the_range(crop):
    crop.raw[0, 0, :2] = -4, 4
    for seed in SEEDS:
        found = Gamma(strength=0.5).apply(crop, random(seed)).raw
        assert found[0, 0, :2] == pytest.approx([-4, 4], abs=1e-5)
        order = np.argsort(crop.raw, axis=None)
        assert (np.diff(found.ravel()[order]) >= 0).all()
        assert 0.01 < np.abs(found - crop.raw).max() < 3


def test_noise_is_independent_and_no_stronger_than_asked(crop):
    for seed in SEEDS:
        noise = Noise(strength=0.5).apply(crop, random(seed)).raw - crop.raw
        assert noise.std() < 0.51
        assert noise.mean() == pytest.approx(0, abs=0.01)
        assert np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1] < 0.02


def test_blur_is_as_wide_in_nm_along_all_axes():
    raw = np.zeros((21, 41, 41), np.float32)
    raw[10, 20, 20] = 1
    given = Crop(raw, np.zeros((1, 1, 1), np.int32), (20.0, 10.0, 10.0))
    found = Blur(probability=1, sigma=60).apply(given, random(1)).raw
    z, y, x = (np.arange(n) - n // 2 for n in raw.shape)
    assert found.sum() == pytest.approx(1, rel=1e-3)
    widths = [
        20 * np.sqrt((found.sum(axis=(1, 2)) * z**2).sum()),
        10 * np.sqrt((found.sum(axis=(0, 2)) * y**2).sum()),
        10 * np.sqrt((found.sum(axis=(0, 1)) * x**2).sum()),
    ]
    assert widths == pytest.approx([widths[0]] * 3, rel=0.1)
    assert 10 < widths[0] < 60


def test_flips_are_all_that_there_are(crop):
    seen = set()
    for seed in range(60):
        found = Flip().apply(crop, random(seed))
        mirrored = [
            flips
            for flips in np.ndindex(2, 2, 2)
            if (found.raw == crop.raw[tuple(slice(None, None, 1 - 2 * f) for f in flips)]).all()
        ]
        seen.update(mirrored)
    assert len(seen) == 8


@pytest.mark.parametrize(
    ("voxel_size", "raw", "orders"),
    [
        (CUBES, (8, 8, 8), 6),
        (CUBES, (6, 8, 8), 2),
        (SECTIONS, (8, 8, 8), 2),
        ((3.0, 2.0, 1.0), (8, 8, 8), 1),
    ],
)
def test_only_axes_that_are_alike_are_exchanged(voxel_size, raw, orders):
    given = Crop(
        np.arange(np.prod(raw), dtype=np.float32).reshape(raw),
        np.zeros((4, 4, 4), np.int32),
        voxel_size,
    )
    found = {Transpose().apply(given, random(seed)).raw.tobytes() for seed in range(60)}
    assert len(found) == orders


def test_warping_by_nothing_a_quarter_turn_and_whole_voxels():
    raw = random().normal(size=(4, 6, 6)).astype(np.float32)
    labels = random().integers(1, 9, (4, 6, 6)).astype(np.int32)
    still, none = np.eye(3, dtype=np.float32), np.zeros((3, 2, 4, 4), np.float32)
    assert (linear(raw, none, still) == raw[1:-1, 1:-1, 1:-1]).all()
    assert (nearest(labels, none, still) == labels[1:-1, 1:-1, 1:-1]).all()
    turn = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)
    quarter = raw[:, ::-1].transpose(0, 2, 1)[1:-1, 1:-1, 1:-1]
    assert (linear(raw, none, turn) == quarter).all()
    aside = none + np.array([0, 1, -2], np.float32)[:, None, None, None]
    assert (linear(raw, aside, still)[:, :, 1:] == raw[1:-1, 2:, :3]).all()
    found = nearest(labels, aside, still)
    assert (found[:, :, 1:] == labels[1:-1, 2:, :3]).all()
    assert (found[:, :, 0] == 0).all()
    # What lies outside is mirrored: one voxel beyond the border is one inside it.
    assert (linear(raw, aside, still)[:, :, 0] == raw[1:-1, 2:, 1]).all()


def test_rotations_stay_in_a_plane_of_equal_voxels(crop):
    sections = dataclasses.replace(crop, voxel_size=SECTIONS)
    assert Rotate().margin(SECTIONS) == (0, 16, 16)
    assert Rotate().margin((3, 2, 1)) == (0, 0, 0)
    found = Rotate(probability=1, room=4).apply(sections, random())
    for z in (0, 39):
        alone = crop.raw.copy()
        alone[[i for i in range(40) if i != z]] = 0
        only = dataclasses.replace(sections, raw=alone)
        turned = Rotate(probability=1, room=4).apply(only, random()).raw
        assert (turned[z] == found.raw[z]).all()
        assert not np.delete(turned, z, axis=0).any()


def test_corners_that_a_turned_crop_sees_no_labels_for_are_unknown(picture):
    turned = Rotate(probability=1, room=0, angle=45).apply(picture, random(3))
    unknown = turned.labels == 0
    assert unknown.any()
    assert not middle(unknown, (20, 20, 20)).any()


@pytest.mark.parametrize("voxel_size", [CUBES, SECTIONS])
def test_elastic_displacements_are_smooth_bounded_and_as_large_as_asked(voxel_size):
    amplitude, shape = 30.0, (60, 60, 60)
    elastic = Elastic(probability=1, amplitude=amplitude, spacing=150)
    margin, lengths = elastic.margin(voxel_size), []
    for axis in range(3):
        ramp = np.indices(shape)[axis].astype(np.float32) * voxel_size[axis]
        for seed in range(3):
            given = Crop(ramp, np.ones(shape, np.int32), voxel_size)
            found = elastic.apply(given, random(seed)).raw
            moved = found - trimmed(ramp, margin)
            steps = np.abs(np.diff(found, axis=axis) / voxel_size[axis] - 1)
            if voxel_size[axis] == 40:
                assert np.abs(moved).max() < 1e-3
                continue
            lengths.append(moved.std())
            assert np.abs(moved).max() <= 2 * amplitude + 1e-3
            assert steps.max() < 1, "tissue is folded"
    assert np.mean(lengths) == pytest.approx(0.8 * amplitude, rel=0.35)


def test_a_deformation_that_would_fold_tissue_is_refused():
    with pytest.raises(ValidationError, match=r"fold tissue .* spacing to at least 250.0 nm"):
        Elastic(amplitude=50, spacing=200)


def test_a_missing_section_has_one_dark_value(crop):
    for seed in SEEDS:
        found = Missing(probability=1).apply(crop, random(seed)).raw
        (z,) = changed_sections(crop.raw, found)
        assert np.ptp(found[z]) == 0
        assert -4 <= found[z, 0, 0] <= 0


def test_several_sections_in_a_row_may_be_missing(crop):
    found = [
        changed_sections(crop.raw, Missing(probability=1, most=3).apply(crop, random(seed)).raw)
        for seed in range(20)
    ]
    assert {len(each) for each in found} == {1, 2, 3}
    assert all(np.ptp(each) == len(each) - 1 for each in found)


def test_a_duplicated_section_is_its_neighbour(crop):
    for seed in range(60):
        found = Duplicated(probability=1).apply(crop, random(seed)).raw
        (z,) = changed_sections(crop.raw, found)
        assert (found[z] == crop.raw[z - 1 if z else 1]).all()


def test_a_section_of_low_contrast_keeps_its_mean(crop):
    for seed in SEEDS:
        found = LowContrast(probability=1).apply(crop, random(seed)).raw
        (z,) = changed_sections(crop.raw, found)
        assert found[z].mean() == pytest.approx(crop.raw[z].mean(), abs=1e-5)
        assert 0.2 <= found[z].std() / crop.raw[z].std() <= 0.6


def test_a_section_out_of_focus_is_smooth_in_its_plane(crop):
    found = OutOfFocus(probability=1).apply(crop, random()).raw
    (z,) = changed_sections(crop.raw, found)
    assert found[z].std() < 0.6 * crop.raw[z].std()
    alone = OutOfFocus(probability=1).apply(
        dataclasses.replace(crop, raw=np.repeat(crop.raw[z][None], 40, axis=0)), random()
    )
    assert (alone.raw[z] == found[z]).all()


def test_charging_makes_stripes_along_x_that_fade(crop):
    for seed in SEEDS:
        found = Charging(probability=1, stripes=1, length=100).apply(crop, random(seed)).raw
        (z,) = changed_sections(crop.raw, found)
        stripe = found[z] - crop.raw[z]
        rows = np.flatnonzero(np.abs(stripe).max(axis=1) > 1e-6)
        assert np.ptp(rows) == len(rows) - 1 <= 6
        assert stripe[rows] == pytest.approx(np.tile(stripe[rows[0]], (len(rows), 1)), abs=1e-5)
        profile = np.abs(stripe[rows[0]])
        first = profile.argmax()
        assert profile[:first] == pytest.approx(0, abs=1e-5)
        assert (np.diff(profile[first:]) < 1e-5).all()
        assert profile.max() <= 2


def test_a_slip_moves_raw_data_of_one_section_and_no_labels(crop):
    margin, moved = Shifted().margin(CUBES), 0
    assert margin == (0, 6, 6)
    for seed in range(10):
        found = Shifted(probability=1, slips=1).apply(crop, random(seed))
        assert (found.labels == trimmed(crop.labels, margin)).all()
        for z in changed_sections(trimmed(crop.raw, margin), found.raw):
            views = np.lib.stride_tricks.sliding_window_view(crop.raw[z], found.raw.shape[1:])
            assert (views == found.raw[z]).all(axis=(2, 3)).any()
            moved += 1
    assert 8 <= moved <= 10


def test_a_misalignment_moves_all_sections_from_one_on_with_their_labels(crop):
    begins = []
    for seed in range(20):
        found = Shifted(probability=1, slips=0).apply(crop, random(seed))
        raw = changed_sections(trimmed(crop.raw, (0, 6, 6)), found.raw)
        labels = changed_sections(trimmed(crop.labels, (0, 6, 6)), found.labels)
        if raw:
            assert raw == list(range(raw[0], 40))
            assert labels == list(range(max(0, raw[0] - 4), 32))
            begins.append(raw[0])
    assert len(set(begins)) > 8


def test_a_tear_is_black_and_unknown_and_its_sides_part(crop):
    torn = Torn(probability=1, gap=100)
    labels = dataclasses.replace(crop, labels=np.maximum(crop.labels, 1))
    for seed in range(10):
        found = torn.apply(labels, random(seed))
        (z,) = changed_sections(trimmed(crop.raw, torn.margin(CUBES)), found.raw)
        black = found.raw[z] == -4
        assert 0.01 < black.mean() < 0.6
        # Every other voxel is one of the section's, once.
        assert np.isin(found.raw[z][~black], crop.raw[z]).all()
        assert len(np.unique(found.raw[z][~black])) > 0.97 * (~black).sum()
        unknown = np.zeros(found.labels.shape, bool)
        if 4 <= z < 36:
            unknown[z - 4] = middle(black, unknown.shape[1:])
        assert ((found.labels == 0) == unknown).all()


@pytest.mark.parametrize("kind", [*INTENSITIES, *DAMAGES, *MOVES])
def test_the_probability_is_the_share_of_crops_that_change(kind):
    # Where nothing is symmetrical, and few voxels make it quick.
    rng = random(9)
    shape = (12, 48, 48) if kind in MOVES else (6, 8, 8)
    given = Crop(rng.normal(size=shape).astype("f4"), np.ones((4, 40, 40), np.int32), SECTIONS)
    augmentation = kind(probability=0.5)
    margin = augmentation.margin(SECTIONS)
    same = sum(
        np.array_equal(augmentation.apply(given, random(seed)).raw, trimmed(given.raw, margin))
        for seed in range(60)
    )
    # A flip or a transposition may be none.
    least = 60 * {Flip: 0.5625, Transpose: 0.75}.get(kind, 0.5)
    assert same == pytest.approx(least, abs=13)
