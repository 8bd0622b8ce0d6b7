"""Test-time augmentation: the mean over flips and transpositions of the tile.

The elements that are averaged over are a group, and the mean is an integer sum.
So for one tile, whose networks see the same turned arrays whichever way it is
turned itself, the prediction turns with the tile to the last bit. From tile to
tile it does as far as the network's own arithmetic does not know its tile.

An affinity is a property of a pair of voxels. Where a flip makes of the pair
(v, v − e) the pair (w, w + e), its affinity is that of channel −e at w + e. So
the networks' cores are grown by the longest offset, rounded up to whole strides.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.geometry import Triple, triple
from tasks.networks.tile import Needs, TilePredictor
from tasks.parts import Target, VoxelSize

Which = Literal["none", "flips", "all"]


@dataclass(frozen=True)
class Symmetry:
    """A flip and transposition: axis k is axis ``axes[k]`` of before, reversed if ``flips[k]``.

    Examples
    --------
    >>> Symmetry((0, 2, 1), (True, False, False)).vector((-1, 5, 0))
    (1, 0, 5)
    """

    axes: Triple
    flips: tuple[bool, bool, bool]

    def apply(self, x: Tensor) -> Tensor:
        """The last three axes of `x`, turned."""
        first = x.ndim - 3
        turned = x.permute(*range(first), *(first + axis for axis in self.axes))
        return torch.flip(turned, [first + k for k in range(3) if self.flips[k]]).contiguous()

    def undo(self, x: Tensor) -> Tensor:
        """What `apply` made `x` of."""
        first = x.ndim - 3
        turned = torch.flip(x, [first + k for k in range(3) if self.flips[k]])
        back = (first + self.axes.index(axis) for axis in range(3))
        return turned.permute(*range(first), *back)

    def permuted(self, sizes: Triple) -> Triple:
        """Sizes (z, y, x) after the transposition."""
        return triple(sizes[axis] for axis in self.axes)

    def vector(self, offset: Triple) -> Triple:
        """An offset after flip and transposition."""
        moved = self.permuted(offset)
        return triple(-o if flip else o for o, flip in zip(moved, self.flips, strict=True))


def symmetries(which: Which, voxel_size: VoxelSize, head: Target) -> list[Symmetry]:
    """The group that is averaged over; the identity comes first.

    Axes change places if their voxels are equally long, and only if an affinity
    of every offset of `head` becomes one of its affinities again.
    """
    if which == "none":
        return [Symmetry((0, 1, 2), (False, False, False))]
    found = []
    for axes in itertools.permutations(range(3)):
        moved = which == "all" or axes == (0, 1, 2)
        lengths = [voxel_size[axis] for axis in axes]
        if not moved or not np.allclose(lengths, voxel_size, rtol=1e-3, atol=0):
            continue
        for z, y, x in itertools.product((False, True), repeat=3):
            symmetry = Symmetry(triple(axes), (z, y, x))
            if all(_channel(symmetry, head, channel) for channel in range(head.channels)):
                found.append(symmetry)
    return found


def augmented_needs(inner: Needs, head: Target, group: list[Symmetry]) -> Needs:
    """What is needed of a tile that all of `group` are applied to.

    It is as large on all axes that change places, so that turned tiles see the same.
    """
    axes = [symmetry.axes for symmetry in group]
    stride = triple(math.lcm(*(inner.stride[a[k]] for a in axes)) for k in range(3))
    context = triple(max(inner.context[a[k]] for a in axes) for k in range(3))
    longest = [0, 0, 0]
    if len(group) > 1 and head.pairs:
        longest = [max(abs(offset[k]) for offset in head.pairs) for k in range(3)]
    grown = triple(-(-size // s) * s for size, s in zip(longest, stride, strict=True))
    return Needs(
        stride,
        triple(c + g for c, g in zip(context, grown, strict=True)),
        triple(a + b for a, b in zip(inner.grown, grown, strict=True)),
    )


def _channel(symmetry: Symmetry, head: Target, channel: int) -> tuple[int, Triple] | None:
    """Where a channel's value of a voxel stands in the prediction of the turned tile.

    The channel there, and how far away from the turned voxel; None if nowhere.
    """
    if not head.pairs:
        return channel, (0, 0, 0)
    turned = symmetry.vector(head.pairs[channel])
    if turned in head.pairs:
        return head.pairs.index(turned), (0, 0, 0)
    opposite = triple(-o for o in turned)
    if opposite in head.pairs:
        return head.pairs.index(opposite), turned
    return None


class Augmented(TilePredictor):
    """The mean of what `inner` says of a tile in all positions of a group.

    Parameters
    ----------
    inner : TilePredictor
        Of one head.
    group : list of Symmetry
        From `symmetries`.
    """

    def __init__(self, inner: TilePredictor, group: list[Symmetry]) -> None:
        self.inner, self.group = inner, group
        self.head, self.device = inner.head, inner.device
        self.needs = augmented_needs(inner.needs, inner.head, group)
        self.count = inner.count * len(group)
        self._places = [[self._place(s, c) for c in range(self.head.channels)] for s in group]
        own = zip(self.needs.grown, inner.needs.grown, strict=True)
        self._grown = triple(outer - within for outer, within in own)

    def levels(self, raw: Tensor) -> Tensor:
        """Sums over the group, in units of 1/65535, int32 (c, z, y, x) of the core."""
        core = triple(n - 2 * c for n, c in zip(raw.shape, self.needs.context, strict=True))
        total = torch.zeros((self.head.channels, *core), dtype=torch.int32, device=raw.device)
        for symmetry, places in zip(self.group, self._places, strict=True):
            levels = self.inner.levels(self._input(symmetry, raw))
            begin = symmetry.permuted(self._grown)
            size = symmetry.permuted(core)
            for channel, (there, shift) in enumerate(places):
                z, y, x = (
                    slice(b + s, b + s + n) for b, s, n in zip(begin, shift, size, strict=True)
                )
                total[channel] += symmetry.undo(levels[there, z, y, x])
        return total

    def _place(self, symmetry: Symmetry, channel: int) -> tuple[int, Triple]:
        found = _channel(symmetry, self.head, channel)
        if found is None:
            raise ModelError(
                f"channel {channel} of {self.head} is no channel of the tile that {symmetry} "
                "turns; take the group from symmetries()"
            )
        return found

    def _input(self, symmetry: Symmetry, raw: Tensor) -> Tensor:
        """The turned tile with as much context as `inner` needs."""
        turned = symmetry.apply(raw)
        context = symmetry.permuted(self.needs.context)
        grown = symmetry.permuted(self._grown)
        spare = [
            c - g - n for c, g, n in zip(context, grown, self.inner.needs.context, strict=True)
        ]
        z, y, x = (slice(s, n - s) for s, n in zip(spare, turned.shape, strict=True))
        return turned[z, y, x].contiguous()
