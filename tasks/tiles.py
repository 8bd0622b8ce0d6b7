"""Inference tiles: a global grid of cores, and reads that are mirrored at the volume's border.

Which voxels a tile reads depends on its index and on the volume's shape, never
on the block that asks for it. A volume thinner than the context is mirrored
again and again: the reflection is arithmetic on indices, not a copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Box, Grid, Triple, triple

Array = npt.NDArray[Any]


def mirrored(begin: int, end: int, size: int) -> npt.NDArray[np.int64]:
    """Indices inside 0…size − 1 for begin…end − 1, reflected about the border voxels.

    Examples
    --------
    >>> mirrored(-2, 5, 3).tolist()
    [2, 1, 0, 1, 2, 1, 0]
    """
    if size == 1:
        return np.zeros(end - begin, np.int64)
    folded = np.abs(np.arange(begin, end) % (2 * (size - 1)))
    inside: npt.NDArray[np.int64] = np.minimum(folded, 2 * (size - 1) - folded)
    return inside


def read_mirrored(read: Callable[[Box], Array], shape: Triple, box: Box) -> Array:
    """Read `box`, which may leave the volume, mirrored at the volume's border.

    Parameters
    ----------
    read : callable
        Gives the voxels (z, y, x) of a box inside the volume.
    shape : tuple of int
        Extent of the volume in voxels.
    box : Box
        What is wanted.

    Returns
    -------
    ndarray
        (z, y, x), of `box.shape`.
    """
    indices = [mirrored(o, e, n) for o, e, n in zip(box.offset, box.end, shape, strict=True)]
    z, y, x = (int(index.min()) for index in indices)
    end_z, end_y, end_x = (int(index.max()) + 1 for index in indices)
    inside = Box.between((z, y, x), (end_z, end_y, end_x))
    voxels = read(inside)
    if inside == box:
        return voxels
    local = [index - begin for index, begin in zip(indices, inside.offset, strict=True)]
    return voxels[np.ix_(*local)]


def whole_tiles(block: Triple, tile: Triple) -> Triple:
    """The smallest whole number of tiles that holds a block, in voxels."""
    z, y, x = (-(-b // t) * t for b, t in zip(block, tile, strict=True))
    return z, y, x


def cores(box: Box, roi: Box, tile: Triple, stride: Triple) -> list[Box]:
    """What a network predicts to cover `box`: the cores of its tiles, in C order.

    Parameters
    ----------
    box : Box
        A block of whole tiles, clipped to `roi`.
    roi : Box
        The region of interest; cores are clipped to the strides that meet it.
    tile, stride : tuple of int
        Shape of a core, a multiple of the network's stride.

    Returns
    -------
    list of Box
        The same for a tile whatever the block that holds it.
    """
    clipped = Box.between(
        triple(o // s * s for o, s in zip(roi.offset, stride, strict=True)),
        triple(-(-e // s) * s for e, s in zip(roi.end, stride, strict=True)),
    )
    grid = Grid(roi, tile)
    return [grid.whole(found.index).intersect(clipped) for found in grid.overlapping(box)]


def read_ahead(
    pool: Executor, read: Callable[[Box], Array], boxes: Iterable[Box], depth: int
) -> Iterator[tuple[Box, Array]]:
    """Each box with what `read` gives for it, up to `depth` reads ahead."""
    waiting: deque[tuple[Box, Future[Array]]] = deque()
    for box in boxes:
        waiting.append((box, pool.submit(read, box)))
        if len(waiting) > depth:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()
