"""Network, crop and batch of a training, from the size of voxels and the memory of the machine.

In the manner of nnU-Net (Isensee et al. 2021, Nature Methods 18): networks are
2-D until their voxels are isotropic, the crop is what memory holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from distributed.system import MEMORY_LIMIT

from pipeline.geometry import Triple, triple
from tasks.networks.architecture import UnetArchitecture
from tasks.parts import VoxelSize

ISOTROPIC = 2.0
"""Sides of voxels that differ by less than this factor are as good as equal, as in nnU-Net."""

GIB = 1 << 30


@dataclass(frozen=True)
class Machine:
    """What a training may use.

    Attributes
    ----------
    memory : int
        Bytes of the GPU, or else of the machine or what a container leaves of it.
    gpu : bool
        Whether there is one.
    """

    memory: int
    gpu: bool

    @classmethod
    def here(cls) -> Machine:
        """What this process may use."""
        if torch.cuda.is_available():
            return cls(torch.cuda.get_device_properties(0).total_memory, gpu=True)
        return cls(MEMORY_LIMIT, gpu=False)


def choose_network(voxel_size: VoxelSize, *, gpu: bool) -> dict[str, Any]:
    """A U-Net that is 2-D until voxels are isotropic, then 3-D for at least one level.

    Examples
    --------
    >>> [level["factor"] for level in choose_network((40, 4, 4), gpu=False)["levels"]]
    [[1, 2, 2], [1, 2, 2], [1, 2, 2]]
    >>> choose_network((10, 10, 10), gpu=False)["levels"][0]["down"]
    [[3, 3, 3]]
    """
    size = list(voxel_size)
    levels: list[dict[str, Any]] = []
    widths = [32, 64, 128, 256, 320] if gpu else [16, 48, 96, 96, 96]
    while len(levels) < 2 or (not all(_flat(size)) and len(levels) < 4):
        kernel = [3 if near else 1 for near in _flat(size)]
        factor = [2 if near else 1 for near in _flat(size)]
        index = len(levels)
        levels.append(
            {
                "channels": widths[index],
                "down": [kernel] * (1 if index == 0 else 2),
                "up": [kernel] * 2,
                "factor": factor,
            }
        )
        size = [s * f for s, f in zip(size, factor, strict=True)]
    kernel = [3 if near else 1 for near in _flat(size)]
    bottom = {"channels": widths[len(levels)], "kernels": [kernel] * 4}
    return {"kind": "unet", "levels": levels, "bottom": bottom}


def _flat(size: list[float]) -> list[bool]:
    """The axes along which voxels are about as short as along the finest one."""
    return [s < ISOTROPIC * min(size) for s in size]


def choose_crop(
    network: UnetArchitecture, voxel_size: VoxelSize, extent: Triple, machine: Machine
) -> tuple[Triple, int]:
    """The largest crop, about a cube in nm, with which a step fits into a part of memory.

    A quarter of a machine's memory, since time is short there first: no more
    than 48³ voxels; half of a GPU's, and no more than 96³ voxels, then more
    crops a step. A volume that is thin along an axis has wider crops.
    """
    budget = machine.memory // (2 if machine.gpu else 4)
    most = (96 if machine.gpu else 48) ** 3
    side = min(voxel_size)
    crop = _fitted(network, voxel_size, extent, side)
    while side < max(s * n for s, n in zip(voxel_size, extent, strict=True)):
        side *= 1.02
        wider = _fitted(network, voxel_size, extent, side)
        if math.prod(wider) > most or training_bytes(network, wider, 1) > budget:
            break
        crop = wider
    batch = 1
    while machine.gpu and batch < 4 and training_bytes(network, crop, 2 * batch) <= budget:
        batch *= 2
    return crop, batch


def _fitted(
    network: UnetArchitecture, voxel_size: VoxelSize, extent: Triple, side: float
) -> Triple:
    """Multiples of the stride, some `side` nm long, inside a volume where it is large enough."""
    found = []
    for length, stride, most in zip(voxel_size, network.stride, extent, strict=True):
        wanted = min(round(side / length), most)
        found.append(max(1, wanted // stride) * stride)
    return triple(found)


def training_bytes(network: UnetArchitecture, crop: Triple, batch: int) -> int:
    """An estimate of the memory of a training step.

    Every convolution keeps its input and its output, bfloat16, for the way back, and the
    gradients of the largest of them are alive beside.
    """
    total = widest = 0
    shape = crop
    inputs = 1
    levels = list(zip(network.levels, network.margins(), strict=True))
    for level, margins in levels:
        before, joined = _voxels(shape, margins.before), _voxels(shape, margins.joined)
        here = level.channels * (len(level.down) * before + (len(level.up) + 2) * joined)
        total += inputs * before + here
        widest = max(widest, 3 * level.channels * before)
        shape = triple(s // f for s, f in zip(shape, level.factor, strict=True))
        inputs = level.channels
    level, margins = levels[-1]
    deep = triple(m // f for m, f in zip(margins.skip, level.factor, strict=True))
    total += network.bottom.channels * (len(network.bottom.kernels) + 1) * _voxels(shape, deep)
    # 2 bytes each for a convolution's output and the rectifier's.
    return batch * (4 * total + 4 * widest) + GIB // 2


def _voxels(shape: Triple, margin: Triple) -> int:
    return math.prod(s + 2 * m for s, m in zip(shape, margin, strict=True))
