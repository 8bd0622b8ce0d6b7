import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.arrays import create_array, open_array
from pipeline.errors import ConfigError
from pipeline.geometry import Box
from tasks.augmentations.intensity import Brightness
from tasks.augmentations.sections import Shifted
from tasks.augmentations.spatial import Elastic, Flip, Transpose
from tasks.networks.model import Normalisation
from tasks.targets.affinities import NEAREST, Affinities
from tasks.targets.boundary import Boundary
from tasks.targets.distances import Distances
from tasks.train.crops import Crops
from tasks.train.data import Truth, compact, normalisation, specks, used_box

VOXELS = (10.0, 10.0, 10.0)
SHAPE = (16, 20, 24)
HEADS = {
    "affinities": Affinities(offsets=NEAREST),
    "far": Affinities(offsets=[(0, 0, -3)], erode=True),
    "distances": Distances(scale=20),
}


@pytest.fixture(scope="module")
def arrays():
    """Two cells with a dark membrane between them, and noise."""
    rng = np.random.default_rng(0)
    _, y, x = np.indices(SHAPE)
    bent = x - 12 - 2 * np.sin(y / 3)
    labels = np.where(bent < 0, 2**40, 9).astype(np.uint64)
    raw = np.where(np.abs(bent) < 1.5, 60, 160) + rng.normal(0, 5, SHAPE)
    return {"raw": raw.astype(np.uint8), "labels": labels}


@pytest.fixture
def truth(tmp_path, arrays):
    np.savez(tmp_path / "truth.npz", **arrays)
    return Truth(raw=f"{tmp_path}/truth.npz:/raw", labels=f"{tmp_path}/truth.npz:/labels")


def saved(tmp_path, name, array):
    np.save(tmp_path / f"{name}.npy", array)
    return str(tmp_path / f"{name}.npy")


def crops(truths, **changes):
    """Crops that show raw data as they are stored, unless something else is asked for."""
    settings = {
        "voxel_size": VOXELS,
        "core": (6, 6, 6),
        "context": (3, 4, 5),
        "heads": HEADS,
        "augmentations": [],
        "scaling": Normalisation(mean=0, std=1),
        "dust": 10,
        "seed": 0,
    }
    return Crops(truths, **(settings | changes))


def test_a_crop_is_a_function_of_seed_step_and_index(truth):
    augmentations = [Flip(), Elastic(), Brightness()]
    made = crops([truth], augmentations=augmentations)
    first, again = made.sample(3, 1), pickle.loads(pickle.dumps(made)).sample(3, 1)
    assert all((first[name] == again[name]).all() for name in first)
    other = crops([truth], augmentations=augmentations, seed=1)
    for differs in (made.sample(4, 1), made.sample(3, 0), other.sample(3, 1)):
        assert (first["raw"] != differs["raw"]).any()
    assert (made.batch(3, [0, 1])["raw"][1] == first["raw"]).all()


@pytest.mark.parametrize("augmentations", [[], [Elastic(), Shifted(), Flip(), Transpose()]])
def test_a_sample_holds_what_the_network_sees_and_what_it_is_taught(truth, augmentations):
    sample = crops([truth], augmentations=augmentations).sample(0, 0)
    assert {name: (value.shape, value.dtype.name) for name, value in sample.items()} == {
        "raw": ((1, 12, 14, 16), "float32"),
        "labels": ((6, 6, 6), "int32"),
        "affinities": ((3, 6, 6, 6), "bool"),
        "affinities.known": ((3, 6, 6, 6), "bool"),
        "far": ((1, 6, 6, 6), "bool"),
        "far.known": ((1, 6, 6, 6), "bool"),
        "distances": ((1, 6, 6, 6), "float32"),
        "distances.known": ((1, 6, 6, 6), "bool"),
    }
    assert all(value.flags.c_contiguous for value in sample.values())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), z=st.integers(1, 16), side=st.integers(2, 30))
def test_crops_are_what_is_stored_mirrored_about_the_used_voxels(seed, z, side):
    rng = np.random.default_rng(0)
    whole = rng.permutation(np.arange(1, 1 + np.prod(SHAPE))).reshape(SHAPE).astype(np.uint16)
    url = "memory://crops-mirrored/raw/s0"
    create_array(url, shape=SHAPE, dtype="uint16", block=(8, 8, 8), voxel_size=VOXELS, kind="image")
    open_array(url).write(Box((0, 0, 0), SHAPE), whole)
    truth = Truth(raw=url, labels=url, slices=(0, z))
    made = crops([truth], core=(side, side, side), heads={"inside": Boundary()}, dust=0, seed=seed)
    sample = made.sample(0, 0)
    shown = sample["raw"][0].astype(int)
    core = shown[3:-3, 4:-4, 5:-5]
    # Labels are numbered anew, in the order of their ids.
    values, numbers = np.unique(core, return_inverse=True)
    assert (np.unique(sample["labels"], return_inverse=True)[1] == numbers).all()
    assert np.isin(shown, whole[:z]).all()
    where = [np.argwhere(whole == value)[0] for value in (shown[4, 5, 6], core[0, 0, 0])]
    assert all(place[0] < z for place in where)
    places = np.stack([np.argwhere(whole == value)[0] for value in core[0, 0]])
    assert (np.abs(np.diff(places[:, 2])) == 1).all()
    assert (places[:, :2] == places[0, :2]).all()
    assert len(values) <= min(side, z) * min(side, 20) * min(side, 24)


def test_targets_belong_to_their_raw_data(truth):
    made = crops([truth], augmentations=[Flip(), Transpose(), Elastic(probability=1, spacing=100)])
    near, far = [], []
    for step in range(20):
        sample = made.sample(step, 0)
        raw = sample["raw"][0, 3:-3, 4:-4, 5:-5]
        near.append(raw[sample["distances"][0] < 0.5])
        far.append(raw[sample["distances"][0] > 0.8])
    assert np.concatenate(near).mean() < 100
    assert np.concatenate(far).mean() > 150


def test_volumes_are_mixed_by_their_voxels_or_by_weight(tmp_path):
    paths = [
        Truth(
            raw=saved(tmp_path, f"raw{value}", np.full((size, 10, 10), value, np.uint8)),
            labels=saved(tmp_path, f"labels{value}", np.ones((size, 10, 10), np.uint8)),
        )
        for value, size in ((0, 10), (1, 30))
    ]

    def share(truths):
        made = crops(truths, heads={"inside": Boundary()})
        return np.mean([made.sample(step, 0)["raw"][0, 0, 0, 0] for step in range(200)])

    assert share(paths) == pytest.approx(0.75, abs=0.1)
    weighted = [
        truth.model_copy(update={"weight": weight})
        for truth, weight in zip(paths, (4.0, 1.0), strict=True)
    ]
    assert share(weighted) == pytest.approx(0.2, abs=0.1)
    with pytest.raises(ConfigError, match=r"raw1.npy has no weight, though others have"):
        crops([weighted[0], paths[1]])


def test_0_specks_and_what_is_masked_are_unknown_and_background_is_known(tmp_path, arrays):
    labels = np.full(SHAPE, 7, np.uint16)
    labels[:, :5], labels[:, 5], labels[3:5, 10, 10:12] = 0, 3, 8
    mask = np.ones(SHAPE, np.uint8)
    mask[:, :, -6:] = 0
    truth = Truth(
        raw=saved(tmp_path, "raw", arrays["raw"]),
        labels=saved(tmp_path, "labels", labels),
        mask=saved(tmp_path, "mask", mask),
        background=[3],
    )
    seen = set()
    for step in range(30):
        sample = crops([truth]).sample(step, 0)
        seen |= set(np.unique(sample["labels"]))
        assert (sample["distances.known"][0] == (sample["labels"] != 0)).all()
        assert not sample["affinities"][:, sample["labels"] == -1].any()
    assert seen == {-1, 0, 1}
    assert specks(truth, VOXELS, 10).tolist() == [8]
    zero = truth.model_copy(update={"background": [0]})
    assert any((crops([zero]).sample(step, 0)["labels"] == -1).any() for step in range(9))


def test_places_with_something_to_learn_are_found(tmp_path, arrays):
    labels = np.zeros(SHAPE, np.uint16)
    labels[:, :, 12:] = 4
    truth = Truth(
        raw=saved(tmp_path, "raw", arrays["raw"]), labels=saved(tmp_path, "labels", labels)
    )
    assert all(crops([truth]).sample(step, 0)["labels"].any() for step in range(40))


def test_a_box_bounds_what_is_read(truth, arrays):
    box = {"offset": (2, 3, 4), "shape": (5, 6, 7)}
    boxed = Truth.model_validate(truth.model_dump() | {"box": box})
    assert used_box(boxed, SHAPE).slices == (slice(2, 7), slice(3, 9), slice(4, 11))
    found = np.unique(crops([boxed], core=(9, 9, 9)).sample(0, 0)["raw"])
    assert set(found) <= set(arrays["raw"][2:7, 3:9, 4:11].ravel().astype(np.float32))


def test_raw_data_are_scaled(truth, arrays):
    scaling, dtype = normalisation([truth], VOXELS)
    assert dtype == "uint8"
    assert scaling.mean == pytest.approx(arrays["raw"].mean(), rel=1e-12)
    assert scaling.std == pytest.approx(arrays["raw"].std(), rel=1e-12)
    shown, scaled = (
        crops([truth], **given).sample(0, 0)["raw"] for given in ({}, {"scaling": scaling})
    )
    assert scaled == pytest.approx((shown - scaling.mean) / scaling.std, abs=1e-5)


def test_normalisation_and_specks_do_not_depend_on_how_a_volume_is_stored(tmp_path, arrays):
    rng = np.random.default_rng(3)
    ids = rng.choice(np.array([0, 5, 6, 2**33], np.uint64), SHAPE, p=[0.05, 0.9, 0.02, 0.03])
    urls = {}
    for name, array in (("raw", arrays["raw"]), ("labels", ids)):
        urls[name] = f"memory://crops-stored/{name}/s0"
        kind = "image" if name == "raw" else "labels"
        create_array(
            urls[name],
            shape=SHAPE,
            dtype=array.dtype.name,
            block=(4, 5, 6),
            voxel_size=VOXELS,
            kind=kind,
        )
        open_array(urls[name]).write(Box((0, 0, 0), SHAPE), array)
    stored = Truth(raw=urls["raw"], labels=urls["labels"], slices=(3, 14))
    plain = Truth(
        raw=saved(tmp_path, "raw", arrays["raw"]),
        labels=saved(tmp_path, "labels", ids),
        slices=(3, 14),
    )
    assert normalisation([stored], VOXELS) == normalisation([plain], VOXELS)
    values, counts = np.unique(ids[3:14], return_counts=True)
    limit = int(np.median(counts))
    expected = [v for v, c in zip(values, counts, strict=True) if c < limit and v != 0]
    for truth in (stored, plain):
        assert specks(truth, VOXELS, limit).tolist() == expected


def test_labels_become_consecutive_whatever_their_type():
    labels = np.array([[[2**63, 2**63, 7], [0, 9, 3], [3, 3, 0]]], np.uint64)
    found = compact(labels, np.array([7], np.uint64), [9])
    assert found.tolist() == [[[2, 2, 0], [0, -1, 1], [1, 1, 0]]]
    assert found.dtype == np.int32


def test_what_is_used_is_said_once():
    box = {"offset": (0, 0, 0), "shape": (1, 1, 1)}
    with pytest.raises(ValidationError, match="slices and box both say what is used"):
        Truth(raw="a", labels="b", slices=(0, 3), box=box)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": (3, 99)}, r"slices \[3, 99\] are not inside 0…16"),
        ({"box": {"offset": (0, 0, 9), "shape": (1, 1, 16)}}, r"box .* reaches outside .*truth"),
    ],
)
def test_voxels_outside_are_refused(truth, change, message):
    given = Truth.model_validate(truth.model_dump() | change)
    with pytest.raises(ConfigError, match=message):
        crops([given])


@pytest.mark.parametrize("name", ["labels", "mask"])
def test_labels_and_masks_of_another_shape_are_refused(truth, tmp_path, name):
    other = saved(tmp_path, "other", np.ones((4, 4, 4), np.uint8))
    with pytest.raises(ConfigError, match=rf"its {name} .* must be the same voxels"):
        crops([truth.model_copy(update={name: other})])


def test_labels_that_are_no_ids_are_refused(truth, tmp_path):
    floats = saved(tmp_path, "floats", np.ones(SHAPE, np.float32))
    with pytest.raises(ConfigError, match=r"floats.npy' are float32, but ids .* are integers"):
        crops([truth.model_copy(update={"labels": floats})])


def test_volumes_of_specks_are_refused(truth):
    with pytest.raises(ConfigError, match=r"no object of at least dust=100000"):
        crops([truth], dust=100000)


def test_raw_data_without_contrast_are_refused(truth, tmp_path):
    grey = saved(tmp_path, "grey", np.full(SHAPE, 7, np.uint8))
    with pytest.raises(ConfigError, match="every raw voxel that is learnt from is 7"):
        normalisation([truth.model_copy(update={"raw": grey})], VOXELS)


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_raw_data_of_other_or_several_types_are_refused(truth, tmp_path, dtype):
    other = saved(tmp_path, "other", np.ones(SHAPE, dtype))
    with pytest.raises(ConfigError, match=rf"raw volumes have dtypes {dtype}, uint8; a model"):
        normalisation([truth, truth.model_copy(update={"raw": other})], VOXELS)


DATA = Path("../shared/data/fib25/train.npz")


@pytest.mark.skipif(not DATA.exists(), reason=f"the training volume is not at {DATA}")
def test_crops_of_real_data_have_dark_membranes():
    truth = Truth(raw=f"{DATA}:/raw", labels=f"{DATA}:/gt", slices=(0, 24))
    scaling, _ = normalisation([truth], VOXELS)
    made = crops(
        [truth], scaling=scaling, core=(16, 16, 16), dust=100, augmentations=[Elastic(), Flip()]
    )
    near, far = [], []
    for step in range(8):
        sample = made.sample(step, 0)
        known, raw = sample["distances.known"][0], sample["raw"][0, 3:-3, 4:-4, 5:-5]
        near.append(raw[known & (sample["distances"][0] < 0.5)])
        far.append(raw[known & (sample["distances"][0] > 0.9)])
    assert np.concatenate(near).mean() < np.concatenate(far).mean() - 0.5
