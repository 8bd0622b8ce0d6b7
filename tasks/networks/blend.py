"""Overlapping tiles, blended: for networks whose context is too large to cut it off.

Tiles lie on the grid that is anchored at voxel 0, whole ones alone, and all that
have a voxel of the volume. Each is predicted together with `blend` voxels around
it, and counts with a weight that falls linearly from its core to its border. The
weighted sums are of integers, so a voxel's value depends on the volume, the
model, the tile and the mask, never on the block or on the order of tiles: a
block predicts all tiles that reach into it, those of its neighbours included.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.geometry import Box, Grid, Triple, triple
from pipeline.volumes import Volume
from tasks.networks.flow import predicted
from tasks.networks.tile import Needs, TilePredictor, weighted_as_uint8


def check_blend(blend: Triple, tile: Triple, needs: Needs) -> None:
    """Refuse an overlap that does not fit the network or the tile.

    Raises
    ------
    ConfigError
        If it is not of whole strides, or more than half of a tile.
    """
    if any(b < 0 or b % s for b, s in zip(blend, needs.stride, strict=True)):
        raise ConfigError(
            f"predict.blend: {blend} is not a multiple of the network's stride {needs.stride}"
        )
    if any(2 * b > t for b, t in zip(blend, tile, strict=True)):
        raise ConfigError(
            f"predict.blend: {blend} is more than half of the tile {tile}; raise predict.tile"
        )


def blended_tiles(box: Box, shape: Triple, tile: Triple, blend: Triple) -> list[Box]:
    """The cores of all tiles of a volume of `shape` that reach into `box`."""
    grid = Grid(Box((0, 0, 0), shape), tile)
    return [grid.whole(found.index) for found in grid.overlapping(box.grow(blend, blend))]


def weights(tile: int, blend: int) -> npt.NDArray[np.int64]:
    """Weights along one axis of a tile with what is around it.

    Examples
    --------
    >>> weights(5, 1).tolist(), weights(2, 0).tolist()
    ([1, 2, 2, 2, 2, 2, 1], [1, 1])
    """
    distance = np.arange(1, tile + 2 * blend + 1)
    return np.minimum(np.minimum(distance, distance[::-1]), max(1, 2 * blend)).astype(np.int64)


def predict_blended(
    network: TilePredictor, raw: Volume, tiles: list[Box], box: Box, blend: Triple
) -> tuple[npt.NDArray[np.uint8], int]:
    """Predict `tiles` and blend them where they overlap.

    Parameters
    ----------
    network : TilePredictor
    raw : Volume
        (z, y, x), of the model's dtype.
    tiles : list of Box
        From `blended_tiles`.
    box : Box
        What is returned.
    blend : tuple of int
        Voxels around each tile that are predicted with it, (z, y, x).

    Returns
    -------
    values : ndarray of uint8, (c, z, y, x)
        Of `box`; 0 where there is no tile.
    n_read : int
        Bytes of raw data given to the network.
    """
    sums = np.zeros((network.head.channels, *box.shape), np.int64)
    total = np.zeros(box.shape, np.int64)
    n_read = 0
    wide = [tile.grow(blend, blend) for tile in tiles]
    for tile, levels, n_bytes in predicted(network, raw, wide, network.levels):
        n_read += n_bytes
        kept = tile.intersect(box)
        inside, here = kept.relative_to(tile.offset).slices, kept.relative_to(box.offset).slices
        z, y, x = (
            weights(size - 2 * b, b)[part]
            for size, b, part in zip(tile.shape, blend, inside, strict=True)
        )
        weight = z[:, None, None] * y[:, None] * x
        total[here] += weight
        sums[(..., *here)] += levels[(..., *inside)] * weight
    return weighted_as_uint8(sums, total, network.count), n_read


def blended_reach(tile: Triple, blend: Triple, needs: Needs) -> Triple:
    """How far beyond a block its tiles read at most.

    A region of interest may cut blocks, but no tile.
    """
    return triple(t - 1 + 2 * b + c for t, b, c in zip(tile, blend, needs.context, strict=True))
