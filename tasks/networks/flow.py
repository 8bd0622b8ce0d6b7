"""The flow of tiles: the next ones are read while the network works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipeline.geometry import Box
from pipeline.volumes import Volume
from tasks.networks.tile import Tile, TilePredictor
from tasks.tiles import Array, read_ahead, read_mirrored

AHEAD = 2
"""Tiles that are read before the network asks for them."""


def predicted(
    network: TilePredictor,
    raw: Volume,
    tiles: list[Box],
    predict: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[Box, Tile, int]]:
    """Each tile's core, its prediction (c, z, y, x), and the bytes of raw data that it took.

    Parameters
    ----------
    network : TilePredictor
    raw : Volume
        (z, y, x), of the model's dtype; mirrored at its border.
    tiles : list of Box
        Cores, of multiples of the network's stride.
    predict : callable, optional
        The method of `network`: `quantised` or `levels`.
    """
    context = network.needs.context

    def read(tile: Box) -> Array:
        return read_mirrored(raw.read, raw.shape, tile.grow(context, context))

    waiting: deque[tuple[Box, Callable[[], Tile], int]] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        for tile, voxels in read_ahead(pool, read, tiles, AHEAD):
            waiting.append((tile, network.submit(voxels, predict), voxels.nbytes))
            if len(waiting) > 1:
                first, result, n_bytes = waiting.popleft()
                yield first, result(), n_bytes
        for first, result, n_bytes in waiting:
            yield first, result(), n_bytes


def predict_tiles(
    network: TilePredictor, raw: Volume, tiles: list[Box], box: Box
) -> tuple[npt.NDArray[np.uint8], int]:
    """Predict tiles that do not overlap.

    Parameters
    ----------
    network : TilePredictor
    raw : Volume
        (z, y, x), of the model's dtype.
    tiles : list of Box
        Cores, of multiples of the network's stride; they may leave `box`.
    box : Box
        What is returned.

    Returns
    -------
    values : ndarray of uint8, (c, z, y, x)
        Of `box`; 0 where there is no tile.
    n_read : int
        Bytes of raw data given to the network.
    """
    values = np.zeros((network.head.channels, *box.shape), np.uint8)
    n_read = 0
    for tile, result, n_bytes in predicted(network, raw, tiles):
        n_read += n_bytes
        kept = tile.intersect(box)
        values[(..., *kept.relative_to(box.offset).slices)] = result[
            (..., *kept.relative_to(tile.offset).slices)
        ]
    return values, n_read
