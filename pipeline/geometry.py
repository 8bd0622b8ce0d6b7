"""Boxes of voxels and the regular grids of blocks that cover them.

All coordinates are voxels in (z, y, x) order, in the frame of the input
volume: voxel (0, 0, 0) is its first voxel. A block is named by its index in a
`Grid`; the same index always means the same voxels, whatever the region of
interest, so that names of objects survive a volume that grows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

Triple = tuple[int, int, int]

KEY_LIMITS: Triple = (1 << 20, 1 << 21, 1 << 21)
"""Extent of the largest volume in voxels, (z, y, x): a coordinate must fit a packed id."""


def triple(values: Iterable[int]) -> Triple:
    """Three integers from any iterable of three numbers."""
    z, y, x = values
    return int(z), int(y), int(x)


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box of voxels.

    Parameters
    ----------
    offset, shape : tuple of int
        First voxel and extent in voxels, (z, y, x).

    Examples
    --------
    >>> Box((0, 0, 0), (4, 4, 4)).intersect(Box((2, 0, 0), (4, 4, 2)))
    Box(offset=(2, 0, 0), shape=(2, 4, 2))
    """

    offset: Triple
    shape: Triple

    @property
    def end(self) -> Triple:
        """First voxel past the box on each axis."""
        return triple(o + s for o, s in zip(self.offset, self.shape, strict=True))

    @property
    def n_voxels(self) -> int:
        """Number of voxels inside."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array that begins at voxel (0, 0, 0)."""
        z, y, x = (slice(o, e) for o, e in zip(self.offset, self.end, strict=True))
        return z, y, x

    @classmethod
    def between(cls, begin: Triple, end: Triple) -> Self:
        """The box from `begin` up to, not including, `end`; never negative."""
        shape = triple(max(0, e - b) for b, e in zip(begin, end, strict=True))
        return cls(begin, shape)

    def intersect(self, other: Box) -> Box:
        """The voxels that both boxes hold (possibly none)."""
        begin = triple(max(a, b) for a, b in zip(self.offset, other.offset, strict=True))
        end = triple(min(a, b) for a, b in zip(self.end, other.end, strict=True))
        return Box.between(begin, end)

    def grow(self, lower: Triple, upper: Triple) -> Box:
        """The box with `lower` voxels added before and `upper` after it."""
        begin = triple(o - m for o, m in zip(self.offset, lower, strict=True))
        end = triple(e + p for e, p in zip(self.end, upper, strict=True))
        return Box.between(begin, end)

    def contains(self, other: Box) -> bool:
        """Whether every voxel of `other` lies inside."""
        return self.intersect(other) == other

    def relative_to(self, origin: Triple) -> Box:
        """The same voxels, counted from `origin`."""
        return Box(triple(o - b for o, b in zip(self.offset, origin, strict=True)), self.shape)


def block_name(index: Triple) -> str:
    """A block's index as it stands in the names of objects.

    Examples
    --------
    >>> block_name((2, 0, 5))
    '2.0.5'
    """
    return ".".join(map(str, index))


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a grid: its index, and its voxels inside the region of interest."""

    index: Triple
    box: Box

    @property
    def name(self) -> str:
        """The index as it stands in the names of objects, for example ``2.0.5``."""
        return block_name(self.index)


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular grid of blocks over a region of interest.

    Parameters
    ----------
    roi : Box
        What is covered; blocks at its sides are clipped to it.
    block : tuple of int
        Shape of a whole block in voxels.
    anchor : tuple of int
        First voxel of block (0, 0, 0).

    Examples
    --------
    >>> grid = Grid(Box((0, 0, 0), (5, 4, 4)), (4, 4, 4))
    >>> [block.box.shape for block in grid]
    [(4, 4, 4), (1, 4, 4)]
    """

    roi: Box
    block: Triple
    anchor: Triple = (0, 0, 0)

    @property
    def first(self) -> Triple:
        """Index of the lowest block that meets the region of interest."""
        return triple(
            (o - a) // b for o, a, b in zip(self.roi.offset, self.anchor, self.block, strict=True)
        )

    @property
    def counts(self) -> Triple:
        """Number of blocks along each axis."""
        last = (
            (e - 1 - a) // b for e, a, b in zip(self.roi.end, self.anchor, self.block, strict=True)
        )
        return triple(stop - start + 1 for start, stop in zip(self.first, last, strict=True))

    @property
    def inner_faces(self) -> int:
        """Number of voxel faces between neighbouring blocks."""
        z, y, x = self.roi.shape
        areas = (y * x, z * x, z * y)
        return sum((n - 1) * area for n, area in zip(self.counts, areas, strict=True))

    def __len__(self) -> int:
        """Number of blocks."""
        return self.counts[0] * self.counts[1] * self.counts[2]

    def __iter__(self) -> Iterator[Block]:
        """All blocks in C order of their index."""
        ranges = (range(f, f + n) for f, n in zip(self.first, self.counts, strict=True))
        for index in itertools.product(*ranges):
            yield self.at(triple(index))

    def whole(self, index: Triple) -> Box:
        """The voxels of a block before it is clipped to the region of interest."""
        offset = triple(a + i * b for a, i, b in zip(self.anchor, index, self.block, strict=True))
        return Box(offset, self.block)

    def at(self, index: Triple) -> Block:
        """The block with this index, clipped to the region of interest."""
        return Block(index, self.whole(index).intersect(self.roi))

    def __contains__(self, index: Triple) -> bool:
        """Whether a block with this index is part of the grid."""
        return all(f <= i < f + n for i, f, n in zip(index, self.first, self.counts, strict=True))

    def overlapping(self, box: Box) -> Iterator[Block]:
        """The blocks of the grid that share a voxel with `box`."""
        inside = box.intersect(self.roi)
        if inside.n_voxels:
            yield from Grid(inside, self.block, self.anchor)._named_in(self)

    def _named_in(self, grid: Grid) -> Iterator[Block]:
        for block in self:
            yield grid.at(block.index)


def octree(grid: Grid) -> list[Grid]:
    """The grids of an octree over `grid`: level 0 is `grid`, the last has one block.

    The octree is anchored at the grid's first block, so that its nodes keep
    their voxels and names when the volume grows at its upper sides.
    """
    anchor = grid.whole(grid.first).offset
    levels = [grid]
    while len(levels[-1]) > 1:
        size = triple(b << len(levels) for b in grid.block)
        levels.append(Grid(grid.roi, size, anchor))
    return levels


def children(levels: list[Grid], level: int, index: Triple) -> list[Block]:
    """The blocks of ``levels[level - 1]`` inside node `index` of ``levels[level]``."""
    return list(levels[level - 1].overlapping(levels[level].at(index).box))
