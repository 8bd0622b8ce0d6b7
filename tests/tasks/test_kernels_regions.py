import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.coordinates import pack, unpack
from tasks.kernels.hashing import EMPTY, pair_key, slot
from tasks.kernels.regions import measure_edges, measure_nodes, take
from tasks.regiongraph import NO_STATS


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    n=st.integers(1, 40),
    low=st.sampled_from([1, 100]),
    seed=st.integers(0, 2**32),
)
def test_edges_are_what_a_dictionary_counts(shape, n, low, seed):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, n + 1, shape).astype(np.int32)
    affinities = rng.integers(0, 256, (3, *(s + 1 for s in shape))).astype(np.uint8)
    # An edge at a voxel without a label does not exist.
    for d in range(3):
        inside = affinities[d][tuple(slice(0, s) for s in shape)]
        inside[index == 0] = 0
        upper, lower = np.moveaxis(inside, d, 0), np.moveaxis(index, d, 0)
        upper[1:][lower[:-1] == 0] = 0
    expected = {}
    for flat, voxel in enumerate(np.ndindex(shape)):
        for d in range(3):
            below = tuple(c - (k == d) for k, c in enumerate(voxel))
            a = int(affinities[(d, *voxel)])
            if voxel[d] and a >= low and index[voxel] != index[below]:
                pair = tuple(sorted((int(index[voxel]) - 1, int(index[below]) - 1)))
                expected.setdefault(pair, []).append((a, 4 * flat + d))
    for kind in ("mean", "quantile"):
        u, v, stats, tie, face, affinity = measure_edges(index, affinities, low, NO_STATS[kind])
        found = {(int(a), int(b)): k for k, (a, b) in enumerate(zip(u, v, strict=True))}
        assert found.keys() == expected.keys()
        for pair, faces in expected.items():
            k = found[pair]
            assert (affinity[k], face[k]) == max(faces)
            assert tie[k] == max(code for _, code in faces)
            if kind == "mean":
                assert list(stats[k]) == [sum(a for a, _ in faces), len(faces)]
            else:
                counts = np.bincount([a for a, _ in faces], minlength=256)
                np.testing.assert_array_equal(stats[k], counts)


def test_many_edges_outgrow_the_first_table():
    index = np.arange(1, 20**3 + 1, dtype=np.int32).reshape(20, 20, 20)
    affinities = np.full((3, 21, 21, 21), 9, np.uint8)
    u, v, stats, *_ = measure_edges(index, affinities, 1, NO_STATS["mean"])
    assert len(u) == 3 * 19 * 20 * 20
    assert len(set(zip(u.tolist(), v.tolist(), strict=True))) == len(u)
    assert (stats == (9, 1)).all()


@given(shape=st.tuples(*[st.integers(1, 7)] * 3), n=st.integers(1, 9), seed=st.integers(0, 999))
def test_nodes_are_what_numpy_measures(shape, n, seed):
    index = np.random.default_rng(seed).integers(0, n + 1, shape).astype(np.int32)
    size, lower, upper, total, first = measure_nodes(index, n)
    for node in range(n):
        voxels = np.argwhere(index == node + 1)
        assert size[node] == len(voxels)
        if len(voxels):
            np.testing.assert_array_equal(lower[node], voxels.min(axis=0))
            np.testing.assert_array_equal(upper[node], voxels.max(axis=0) + 1)
            np.testing.assert_array_equal(total[node], voxels.sum(axis=0))
            assert first[node] == np.flatnonzero(index == node + 1)[0]


@given(pairs=st.sets(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)), max_size=30))
def test_the_table_finds_what_it_holds(pairs):
    keys = np.full(64, EMPTY, np.int64)
    for a, b in pairs:
        keys[slot(keys, pair_key(a, b))] = pair_key(a, b)
    unordered = {frozenset(pair) for pair in pairs}
    assert (keys != EMPTY).sum() == len(unordered)
    for a, b in pairs:
        assert keys[slot(keys, pair_key(b, a))] == pair_key(a, b)


def test_take_looks_every_voxel_up():
    out = np.empty((1, 2, 2), np.uint64)
    take(np.array([[[0, 2], [1, 0]]], np.int32), np.array([5, 6, 7], np.uint64), out)
    assert out.tolist() == [[[5, 7], [6, 5]]]


@given(
    st.lists(
        st.tuples(st.integers(0, 2**20 - 1), st.integers(0, 2**21 - 1), st.integers(0, 2**21 - 1)),
        min_size=1,
    )
)
def test_packed_coordinates_keep_voxels_and_their_order(voxels):
    keys = pack(np.array(voxels))
    np.testing.assert_array_equal(unpack(keys), voxels)
    assert [list(voxel) for voxel in sorted(voxels)] == unpack(np.sort(keys)).tolist()
