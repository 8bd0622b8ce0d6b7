"""Projected memory of a network that predicts one tile."""

from __future__ import annotations

from pipeline.geometry import Triple, triple
from tasks.networks.architecture import UnetArchitecture

OVERHEAD = 600 << 20
"""Bytes of a process with torch loaded, and what large pages and workspaces waste."""


def activation_values(architecture: UnetArchitecture, core: Triple) -> int:
    """The largest number of values alive at once, an upper bound.

    While a convolution runs, its input and output and all skipped features of
    the finer levels are alive.
    """
    shape, kept, inputs = core, 0, 1
    peak = 0
    for level, margins in zip(architecture.levels, architecture.margins(), strict=True):
        entering = _voxels(shape, margins.before)
        peak = max(peak, kept + (inputs + level.channels) * entering)
        if len(level.down) > 1:
            peak = max(peak, kept + 2 * level.channels * entering)
        kept += level.channels * _voxels(shape, margins.skip)
        shape = triple(s // f for s, f in zip(shape, level.factor, strict=True))
        inputs = level.channels
    deepest = architecture.levels[-1]
    margin = triple(
        m // f for m, f in zip(architecture.margins()[-1].skip, deepest.factor, strict=True)
    )
    peak = max(peak, kept + 2 * architecture.bottom.channels * _voxels(shape, margin))
    # On the way up the skipped features, the upsampled ones and their sum are alive.
    joined = architecture.levels[0].channels * _voxels(core, architecture.margins()[0].joined)
    return max(peak, kept + 3 * joined)


def _voxels(shape: Triple, margin: Triple) -> int:
    z, y, x = (s + 2 * m for s, m in zip(shape, margin, strict=True))
    return z * y * x
