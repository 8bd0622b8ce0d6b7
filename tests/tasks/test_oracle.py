"""The engine against a slow and simple reading of the specification, and against waterz."""

from fractions import Fraction

import numpy as np
import pytest
import waterz
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from skimage.metrics import variation_of_information

from pipeline.config import Segment, Supervoxel
from tasks.core import segment_volume


def faces_of(affinities, low):
    """All edges as (affinity, face, lower voxel, upper voxel)."""
    faces = []
    for d in range(3):
        for upper in np.ndindex(affinities.shape[1:]):
            if upper[d] == 0 or affinities[(d, *upper)] < low * 255:
                continue
            lower = tuple(c - (k == d) for k, c in enumerate(upper))
            z, y, x = upper
            face = (z << 42 | y << 21 | x) << 2 | d
            faces.append((int(affinities[(d, *upper)]), face, lower, upper))
    return faces


class Partition:
    """Sets of voxels by their smallest voxel, and the faces between them."""

    def __init__(self, faces):
        self.faces = faces
        self.of = {}
        for *_, lower, upper in faces:
            self.of[lower] = frozenset([lower])
            self.of[upper] = frozenset([upper])

    def join(self, a, b):
        both = a | b
        for voxel in both:
            self.of[voxel] = both

    def pairs(self):
        """Faces between each pair of different sets."""
        found = {}
        for face in self.faces:
            a, b = self.of[face[2]], self.of[face[3]]
            if a is not b:
                found.setdefault(frozenset([a, b]), []).append(face)
        return found


def by_size(least, limit):
    """Rank of a pair in phases 1 and 3; None if it may not merge."""

    def rank(pair, shared):
        if max(shared)[0] < least * 255 or all(len(part) >= limit for part in pair):
            return None
        return max(shared)[:2]

    return rank


def by_score(linkage, threshold):
    """Rank of a pair in phase 2; None if it may not merge."""

    def rank(_, shared):
        levels = sorted(face[0] for face in shared)
        if linkage == "mean":
            score = Fraction(sum(levels), len(levels))
        else:
            percent = int(linkage.split("-")[1])
            score = Fraction(levels[-(-percent * len(levels) // 100) - 1])
        if score < Fraction(round(threshold * 65280), 256):
            return None
        return score, -max(face[1] for face in shared)

    return rank


def fragments_of(faces, high):
    """Every voxel joins along its largest face; and all faces from `high` up."""
    parts = Partition(faces)
    best = {}
    for face in sorted(faces):  # ascending, so the largest stays
        best[face[2]] = best[face[3]] = face
    joining = list(best.values())
    if high is not None:
        joining += [face for face in faces if face[0] >= high * 255]
    for face in joining:
        parts.join(parts.of[face[2]], parts.of[face[3]])
    return parts


def naive(affinities, segment):
    """Labels by the letter of the design: quadratic, everything recomputed after each merge."""
    parts = fragments_of(faces_of(affinities, segment.low), segment.high)
    phases = []
    if segment.supervoxel:
        phases.append(by_size(segment.supervoxel.affinity, segment.supervoxel.size))
    if segment.threshold is not None:
        phases.append(by_score(segment.linkage, segment.threshold))
    if segment.absorb_size:
        phases.append(by_size(0, segment.absorb_size))
    for rank in phases:
        while True:
            ranked = [(rank(pair, shared), pair) for pair, shared in parts.pairs().items()]
            ranked = [item for item in ranked if item[0] is not None]
            if not ranked:
                break
            parts.join(*max(ranked, key=lambda item: item[0])[1])
    labels = np.zeros(affinities.shape[1:], np.uint64)
    for voxel, part in parts.of.items():
        z, y, x = min(part)
        if len(part) >= segment.min_size:
            labels[voxel] = 1 + (z << 42 | y << 21 | x)
    return labels


levels = st.integers(0, 255).map(lambda level: level / 255)


@settings(max_examples=120, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    values=st.lists(st.integers(0, 255), min_size=2, max_size=8),
    seed=st.integers(0, 2**32),
    segment=st.builds(
        Segment,
        low=st.sampled_from([6 / 255, 80 / 255]),
        high=st.none() | levels,
        supervoxel=st.none() | st.builds(Supervoxel, affinity=levels, size=st.integers(1, 9)),
        linkage=st.sampled_from(["mean", "quantile-10", "quantile-50", "quantile-75"]),
        threshold=st.none() | levels,
        absorb_size=st.sampled_from([0, 3, 10]),
        min_size=st.sampled_from([0, 4]),
    ),
)
def test_engine_equals_the_naive_greedy(shape, values, seed, segment):
    affinities = np.random.default_rng(seed).choice(np.array(values, np.uint8), (3, *shape))
    np.testing.assert_array_equal(segment_volume(affinities, segment), naive(affinities, segment))


def cells(seed, shape=(40, 40, 40), n=30):
    """Noisy affinities of Voronoi cells: clear enough that ties do not decide anything."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, shape, (n, 3))
    _, cell = cKDTree(centres).query(np.stack(np.indices(shape), axis=-1))
    affinities = rng.normal(200, 30, (3, *shape))
    for d in range(3):
        between = np.diff(np.moveaxis(cell, d, 0), axis=0) != 0
        noise = rng.normal(60, 30, between.shape)
        upper = np.moveaxis(affinities[d], d, 0)[1:]
        upper[between] = noise[between]
    return affinities.clip(1, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.5, 0.65])
def test_fragments_and_mean_equal_waterz(seed, threshold):
    affinities = cells(seed)
    alone = Segment(low=1 / 255, supervoxel=None, threshold=None, absorb_size=0)
    fragments = segment_volume(affinities, alone)
    _, numbers = np.unique(fragments, return_inverse=True)
    as_waterz = (affinities / 255).astype(np.float32)
    (theirs,) = waterz.agglomerate(
        as_waterz,
        [1 - threshold],
        fragments=(numbers.reshape(fragments.shape) + 1).astype(np.uint64),
        discretize_queue=0,
    )
    ours = segment_volume(
        affinities, Segment(low=1 / 255, supervoxel=None, threshold=threshold, absorb_size=0)
    )
    ids, ours = np.unique(ours, return_inverse=True)
    assert 5 < len(ids) < len(np.unique(fragments)) / 2
    ours = ours.reshape(fragments.shape)
    assert sum(variation_of_information(ours, theirs.astype(np.int64))) < 0.02
