"""The exact decoder in memory, in one piece: for validation and as a reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.config import Segment
from pipeline.geometry import Box, triple
from tasks.agglomerate import agglomerate
from tasks.kernels.regions import take
from tasks.segment import segment_block


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
    box = Box((0, 0, 0), triple(affinities.shape[1:]))
    padded = np.pad(affinities, ((0, 0), (0, 1), (0, 1), (0, 1)))
    padded[0, 0], padded[1, :, 0], padded[2, :, :, 0] = 0, 0, 0
    parameters = segment.model_dump(mode="json")
    graph = segment_block(padded, box, box, parameters)
    incomplete = np.zeros(len(graph.nodes), np.bool_)
    outcome = agglomerate(graph.nodes, graph.edges, incomplete, parameters)
    sizes = outcome.final.size + outcome.final.absorbed
    kept = outcome.final.id[sizes >= segment.min_size]
    labels = np.where(np.isin(outcome.id, kept), outcome.id, np.uint64(0))
    volume = np.empty(box.shape, np.uint64)
    take(graph.index, np.concatenate((np.zeros(1, np.uint64), labels)), volume)
    return volume
