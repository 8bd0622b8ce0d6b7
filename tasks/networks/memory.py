"""Projected memory of the U-Net while it predicts one tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.geometry import Triple, triple

if TYPE_CHECKING:
    from tasks.networks.architecture import Kernel, UnetArchitecture


@dataclass(frozen=True)
class _Sizes:
    """The margins of a level as numbers of voxels; `below` of the next level's."""

    before: int
    skip: int
    joined: int
    upsampled: int
    below: int


def activation_values(unet: UnetArchitecture, core: Triple) -> int:
    """The largest number of values alive at once, an upper bound.

    While a chain runs, what enters it is alive, and from its second
    convolution on two more outputs; in a residual chain, three. So are the
    raw data and, of every finer level, the skipped features.
    """
    sizes = _sizes(unet, core)
    kept, inputs, peak = sizes[0].before, 1, 0
    for index, (level, size) in enumerate(zip(unet.levels, sizes, strict=True)):
        entering = inputs * size.before if index else 0  # raw data are kept
        peak = max(peak, kept + entering + _chain(unet, level.channels, level.down, size.before))
        kept += level.channels * size.skip
        inputs = level.channels
    deeper, below = unet.bottom.channels, sizes[-1].below
    chain = _chain(unet, deeper, unet.bottom.kernels, below)
    peak = max(peak, kept + inputs * below + chain)
    for level, size in reversed(list(zip(unet.levels, sizes, strict=True))):
        upsampled = deeper * size.below + level.channels * size.upsampled
        peak = max(peak, kept + upsampled + level.channels * size.below)
        entering = level.channels * size.joined * (1 if unet.skips == "sum" else 2)
        chain = _chain(unet, level.channels, level.up, size.joined)
        peak = max(peak, kept + upsampled + entering + chain)
        kept -= level.channels * size.skip
        deeper = level.channels
    return peak


def _chain(unet: UnetArchitecture, channels: int, kernels: list[Kernel], size: int) -> int:
    """Values that a chain's outputs take at once."""
    return channels * size * (1 if len(kernels) == 1 else 2 + int(unet.residual))


def _sizes(unet: UnetArchitecture, core: Triple) -> list[_Sizes]:
    """Voxels of what enters, leaves and joins every level, and of what leaves it downwards."""
    found, shape, padded = [], core, unet.context
    for level, margins in zip(unet.levels, unet.margins(), strict=True):
        used = margins
        if unet.padding == "same":
            used = replace(margins, before=padded, skip=padded, joined=padded, below=padded)
        down = triple(m // f for m, f in zip(used.skip, level.factor, strict=True))
        before, skip, joined, upsampled = (
            _voxels(shape, margin) for margin in (used.before, used.skip, used.joined, used.below)
        )
        shape = triple(s // f for s, f in zip(shape, level.factor, strict=True))
        padded = down
        found.append(_Sizes(before, skip, joined, upsampled, _voxels(shape, down)))
    return found


def _voxels(shape: Triple, margin: Triple) -> int:
    z, y, x = (s + 2 * m for s, m in zip(shape, margin, strict=True))
    return z * y * x
