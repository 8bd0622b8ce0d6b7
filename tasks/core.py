"""The exact decoder in memory, in one piece: for validation and as a reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from pipeline.config import Segment
from pipeline.geometry import Box, triple
from tasks.agglomerate import agglomerate
from tasks.kernels.regions import take
from tasks.segment import BlockGraph, segment_block


def segment_volume(affinities: npt.NDArray[np.uint8], segment: Segment) -> npt.NDArray[np.uint64]:
    """Labels of a volume that fits in memory.

    Parameters
    ----------
    affinities : ndarray of uint8, (3, z, y, x)
        Channel d joins voxel v and v - e_d.
    segment : Segment
        Parameters, as in a configuration.

    Returns
    -------
    ndarray of uint64, (z, y, x)
        Packed ids, 0 for background; the same as a run with any blocks writes.

    Examples
    --------
    >>> affinities = np.full((3, 2, 3, 4), 255, np.uint8)
    >>> np.unique(segment_volume(affinities, Segment(absorb_size=0))).tolist()
    [1]
    """
    return next(sweep(affinities, [segment]))


def sweep(
    affinities: npt.NDArray[np.uint8], settings: Iterable[Segment]
) -> Iterator[npt.NDArray[np.uint64]]:
    """Labels for each of several settings, as `segment_volume` gives them.

    Settings that follow each other and differ in thresholds and sizes alone
    share fragments and region graph.
    """
    graph, made_with = None, None
    for segment in settings:
        parameters = segment.model_dump(mode="json")
        needs = {name: parameters[name] for name in ("low", "high", "supervoxel", "linkage")}
        if graph is None or needs != made_with:
            graph, made_with = whole_graph(affinities, segment), needs
        yield cut(graph, segment)


def whole_graph(affinities: npt.NDArray[np.uint8], segment: Segment) -> BlockGraph:
    """Supervoxels and region graph of a volume as one block."""
    box = Box((0, 0, 0), triple(affinities.shape[1:]))
    return segment_block(padded(affinities), box, box, segment.model_dump(mode="json"))


def padded(affinities: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """One voxel more on the upper sides, as kernels of a block take it, and no edge that leaves."""
    found = np.pad(affinities, ((0, 0), (0, 1), (0, 1), (0, 1)))
    found[0, 0], found[1, :, 0], found[2, :, :, 0] = 0, 0, 0
    return found


def cut(graph: BlockGraph, segment: Segment) -> npt.NDArray[np.uint64]:
    """Labels of a graph that is the whole volume's."""
    incomplete = np.zeros(len(graph.nodes), np.bool_)
    outcome = agglomerate(graph.nodes, graph.edges, incomplete, segment.model_dump(mode="json"))
    sizes = outcome.final.size + outcome.final.absorbed
    kept = outcome.final.id[sizes >= segment.min_size]
    labels = np.where(np.isin(outcome.id, kept), outcome.id, np.uint64(0))
    volume = np.empty(graph.index.shape, np.uint64)
    take(graph.index, np.concatenate((np.zeros(1, np.uint64), labels)), volume)
    return volume
