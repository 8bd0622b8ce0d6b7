"""Decoders against each other, on the same predictions and at equal effort of tuning.

    python benchmarks/decoders.py fib25-affinities [MODEL …] [--flips 4] [--slices 130 170]

Predicts all heads of each model on slices of FIB-25 that it never learnt from, and cuts them by
every decoder at the same eight thresholds. One merge decides so small a volume, and rounding may
decide the merge; so each model predicts the slices as they are, and in the mean with one mirror
image or another, which are as many samples. For each decoder it prints the one threshold of least
mean VOI (what a default would be), and there the mean over samples, the standard deviation and the
worst of VOI (split + merge, bits) and adapted Rand error. All are in memory and in one piece. Those
that `segment:` offers run as they are; the others change what fragments grow on, or what a score is
made of:

- `long-range`: faces 4 (or 12) voxels apart, as the auxiliary head predicts them, count in the
  mean of an edge like its common faces; pairs that do not touch get an edge by them.
- `long-range against`: they count at most as much as the threshold, so they only ever part.
- `heights`: fragments grow on the distance to the boundary, smoothed by a Gaussian where `sigma`
  is given, and join below `size` voxels whatever parts them (seeds of a least extent); edges are
  scored by the mean of affinities.
- `flooded`: supervoxels of at least `size` voxels whatever parts them, so that specks join their
  largest affinity before the agglomeration, not after it, and scores count all of a membrane.
- `waterz`: its own watershed and mean agglomeration.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage

import tasks  # noqa: F401 - sets what torch reads when it is imported
from pipeline.config import Segment, Waterz
from pipeline.geometry import Box
from pipeline.volumes import open_volume
from tasks import waterz_agglomeration
from tasks.affinities import affinities_of_heights
from tasks.core import cut, padded, sweep, whole_graph
from tasks.evaluate.contingency import contingency
from tasks.evaluate.scores import score
from tasks.kernels.regions import measure_edges
from tasks.networks.augmented import Augmented, symmetries
from tasks.networks.model import find_model, load_network
from tasks.networks.predictor import Predictor
from tasks.predict import default_tile, predict_tiles
from tasks.regiongraph import NO_STATS, Edges, merge_parallel, stack
from tasks.tiles import cores

Array = np.ndarray[Any, Any]
THRESHOLDS = [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75]
FORMER = {"affinity": 0.5, "size": 100}
FINER = {"affinity": 0.7, "size": 100}


@dataclass(frozen=True)
class Predicted:
    """What a model says of the slices, uint8 (c, z, y, x) by head, and their truth."""

    heads: dict[str, Array]
    far: list[tuple[int, int, int]]
    truth: Array


def predict(model: str, path: str, slices: list[int], flip: int) -> Predicted:
    """All heads on the slices, in the mean with mirror image `flip`, and raw data beyond them."""
    raw = open_volume(f"{path}:/raw", voxel_size=(10, 10, 10))
    truth = open_volume(f"{path}:/gt", voxel_size=(10, 10, 10))
    box = Box.between((slices[0], 0, 0), (slices[1], *raw.shape[1:]))
    heads = {}
    folder = find_model(model)
    for name in load_network(folder)[0].heads:
        description, network = load_network(folder)
        plain = Predictor(description, network, name, torch.device("cpu"), "bfloat16")
        group = symmetries("flips", description.voxel_size, plain.head)
        predictor = Augmented(plain, [group[0], group[flip]]) if flip else plain
        stride = predictor.needs.stride
        tiles = cores(box, box, default_tile(description, stride), stride)
        heads[name], _ = predict_tiles(predictor, raw, tiles, box)
    far = description.heads["long_range_affinities"].offsets  # type: ignore[attr-defined]
    return Predicted(heads, far, truth.read(box))


def decoders(found: Predicted) -> Iterator[tuple[str, Iterator[Array]]]:
    """Every decoder's name, and its labels at each threshold."""
    near, distances = found.heads["affinities"], found.heads["distances"][0]
    for linkage in ("mean", "quantile-25", "quantile-50", "quantile-75"):
        yield f"{linkage}, supervoxels 0.7", offered(near, linkage=linkage, supervoxel=FINER)
    yield "mean, supervoxels 0.5", offered(near, supervoxel=FORMER)
    yield "mean, no supervoxels", offered(near, supervoxel=None)
    yield "mean of eroded affinities", offered(found.heads["eroded_affinities"], supervoxel=FINER)
    yield "mean of distances", offered(affinities_of_heights(distances), supervoxel=FINER)
    for first, name in ((0, "4"), (3, "12")):
        far = found.heads["long_range_affinities"][first : first + 3]
        offsets = found.far[first : first + 3]
        for against in (False, True):
            tag = " against" if against else ""
            yield f"long-range {name}{tag}", with_far(near, far, offsets, against, FINER)
    for sigma in (0.0, 0.7):
        smooth = ndimage.gaussian_filter(distances.astype(np.float32), sigma)
        heights = affinities_of_heights(np.rint(smooth).astype(np.uint8))
        for size in (100, 600):
            yield f"heights, sigma {sigma}, size {size}", on_heights(near, heights, size)
    for size in (50, 100, 300, 600):
        yield f"flooded, size {size}", offered(near, supervoxel={"affinity": 0.02, "size": size})
    flooded = {"affinity": 0.02, "size": 100}
    yield "quantile-50, flooded", offered(near, linkage="quantile-50", supervoxel=flooded)
    far = found.heads["long_range_affinities"][:3]
    yield "long-range 4 against, flooded", with_far(near, far, found.far[:3], True, flooded)
    yield "waterz mean", by_waterz(near)


def offered(affinities: Array, **settings: Any) -> Iterator[Array]:
    """What `segment:` offers."""
    yield from sweep(affinities, (Segment(threshold=t, **settings) for t in THRESHOLDS))


def with_far(
    near: Array,
    far: Array,
    offsets: list[tuple[int, int, int]],
    against: bool,
    supervoxel: dict[str, Any],
) -> Iterator[Array]:
    """Affinities across a longer way count in the means of edges."""
    graph = whole_graph(near, Segment(supervoxel=supervoxel))
    for threshold in THRESHOLDS:
        most = round(threshold * 255) if against else 255
        parts = [
            far_edges(graph.index, np.minimum(channel, most), offset)
            for channel, offset in zip(far, offsets, strict=True)
        ]
        edges = merge_parallel(stack([graph.edges, *parts], Edges.empty("mean")))
        yield cut(replace(graph, edges=edges), Segment(threshold=threshold, supervoxel=None))


def far_edges(index: Array, values: Array, offset: tuple[int, int, int]) -> Edges:
    """One edge for every pair of voxels of two supervoxels; it counts in phase 2 alone."""
    here = tuple(slice(-step if step < 0 else 0, None) for step in offset)
    there = tuple(slice(0, step if step < 0 else None) for step in offset)
    u, v, affinity = index[here].ravel(), index[there].ravel(), values[here].ravel()
    between = (u != v) & (u > 0) & (v > 0)
    u, v, affinity = u[between] - 1, v[between] - 1, affinity[between]
    # Ties are broken in any order: this is about scores, not about blocks.
    face = np.arange(1, len(u) + 1, dtype=np.uint64)
    edges = Edges.of_faces(u, v, affinity, face, "mean")
    edges.affinity1 = edges.affinity3 = np.full(len(u), -1, np.int16)
    return merge_parallel(edges)


def on_heights(near: Array, heights: Array, size: int) -> Iterator[Array]:
    """Fragments of a height map, scored by affinities."""
    graph = whole_graph(heights, Segment(supervoxel={"affinity": 0.02, "size": size}))
    u, v, stats, tie, face, affinity = measure_edges(graph.index, padded(near), 5, NO_STATS["mean"])
    tie, face = tie.astype(np.uint64) + np.uint64(1), face.astype(np.uint64) + np.uint64(1)
    edges = Edges(u, v, stats, tie, affinity, face, affinity, face)
    for threshold in THRESHOLDS:
        yield cut(replace(graph, edges=edges), Segment(threshold=threshold, supervoxel=None))


def by_waterz(near: Array) -> Iterator[Array]:
    """Of waterz, whose thresholds are one minus ours and rise."""
    for threshold in THRESHOLDS:
        options = Waterz(threshold=threshold).model_dump(mode="json")
        yield waterz_agglomeration.agglomerate(near, options)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", default="../shared/data/fib25/train.npz")
    parser.add_argument("--flips", type=int, choices=range(1, 9), default=4, help="samples a model")
    parser.add_argument("--slices", nargs=2, type=int, default=[130, 170])
    options = parser.parse_args()
    curves: dict[str, list[Array]] = {}
    for model, flip in itertools.product(options.models, range(options.flips)):
        found = predict(model, options.data, options.slices, flip)
        for name, labels in decoders(found):
            scores = [score(contingency(found.truth, each)) for each in labels]
            curve = [(s.voi_split, s.voi_merge, s.adapted_rand_error) for s in scores]
            curves.setdefault(name, []).append(np.array(curve))
    result = {}
    for name, each in curves.items():
        sums = np.stack([curve[:, 0] + curve[:, 1] for curve in each])
        common = int(sums.mean(0).argmin())
        result[name] = {
            "threshold": THRESHOLDS[common],
            "voi": summary(sums[:, common]),
            "adapted_rand_error": summary(np.array([curve[common, 2] for curve in each])),
        }
    best_first = dict(sorted(result.items(), key=lambda item: item[1]["voi"]["mean"]))
    print(json.dumps({"models": options.models, "decoders": best_first}, indent=1))


def summary(values: Array) -> dict[str, float]:
    """Of one score over samples."""
    found = {"mean": values.mean(), "standard_deviation": values.std(), "worst": values.max()}
    return {name: round(float(value), 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
