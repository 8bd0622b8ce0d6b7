"""Which tiles a block of the predict step is made of, and what they cost.

Everything follows from the step's parameters, before a weight is read.
"""

from __future__ import annotations

from pipeline.geometry import Box, Grid, Triple, triple
from pipeline.steps import Params
from tasks.networks.blend import blended_reach, blended_tiles
from tasks.networks.flow import AHEAD
from tasks.networks.model import Description
from tasks.networks.tile import Needs
from tasks.tiles import cores

OVERHEAD = 600 << 20
"""Bytes of a process with torch loaded, and what large pages and workspaces waste."""


def tiles_of(params: Params, needs: Needs, shape: Triple, box: Box) -> list[Box]:
    """The cores of the tiles that a block is made of."""
    tile = triple(params["tile"])
    if params["blend"] is not None:
        return blended_tiles(box, shape, tile, triple(params["blend"]))
    roi = Box(triple(params["roi"]["offset"]), triple(params["roi"]["shape"]))
    return cores(box, roi, tile, needs.stride)


def reach_of(params: Params, needs: Needs) -> Triple:
    """Voxels beyond a block that it depends on."""
    if params["blend"] is not None:
        return blended_reach(triple(params["tile"]), triple(params["blend"]), needs)
    # Cores are rounded up to the stride where the region of interest cuts them.
    return triple(c + s - 1 for c, s in zip(needs.context, needs.stride, strict=True))


def voxels_read(params: Params, needs: Needs, shape: Triple) -> int:
    """Voxels of all tiles with their context: a product, since tiles are a product of axes."""
    total = 1
    roi = Box(triple(params["roi"]["offset"]), triple(params["roi"]["shape"]))
    blend = triple(params["blend"] or (0, 0, 0))
    margin = triple(b + c for b, c in zip(blend, needs.context, strict=True))
    for axis in range(3):
        column = Box(roi.offset, triple(roi.shape[i] if i == axis else 1 for i in range(3)))
        read = 0
        for block in Grid(column, triple(params["block"])):
            tiles = tiles_of(params, needs, shape, block.box)
            wide = [tile.grow(margin, margin) for tile in tiles]
            read += sum({tile.offset[axis]: tile.shape[axis] for tile in wide}.values())
        total *= read
    return total


def peak_bytes(
    params: Params, needs: Needs, descriptions: dict[str, Description], itemsize: int
) -> int:
    """Projected peak memory of a process that predicts one block."""
    blended, turned = params["blend"] is not None, params["tta"] != "none"
    blend = triple(params["blend"] or (0, 0, 0))
    core = triple(t + 2 * b for t, b in zip(params["tile"], blend, strict=True))
    own = triple(c + 2 * g for c, g in zip(core, needs.grown, strict=True))
    inputs = Box((0, 0, 0), core).grow(needs.context, needs.context).n_voxels
    values = max(d.network.activation_values(_up(own, d)) for d in descriptions.values())
    width = 2 if params["precision"] == "bfloat16" else 4
    block = Box((0, 0, 0), triple(params["block"])).n_voxels
    total: int = OVERHEAD + width * values + (4 + (AHEAD + 1) * itemsize) * inputs
    total += 2 * params["channels"] * block
    if turned:
        total += 4 * inputs  # the turned tile, twice
    if turned or blended or len(descriptions) > 1:
        # Levels of the members and of one turned tile, their stack, its order, and the sum.
        total += (8 + 24 * len(descriptions)) * params["channels"] * Box((0, 0, 0), own).n_voxels
    if blended:
        total += 8 * (params["channels"] + 1) * block
    return total


def _up(core: Triple, description: Description) -> Triple:
    """A core rounded up to the stride of one of several networks."""
    stride = description.network.stride
    return triple(-(-c // s) * s for c, s in zip(core, stride, strict=True))
