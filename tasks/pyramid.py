"""Coarser levels of the labels: ``labels/s1``, ``labels/s2``, … by the mode.

Invariant: cells are anchored at voxel (0, 0, 0) and ties go to the smallest
label, so that a level does not depend on the blocks that it was made in. Each
level is made from the one before. Grids are in voxels of the finest level, as
those of all steps.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import tensorstore as ts

from pipeline.arrays import OutputArray, create_array, open_array
from pipeline.errors import ConfigError
from pipeline.geometry import Block, Box, Grid, Triple, triple
from pipeline.steps import Counters, Job, Params, Step
from pipeline.store import context

Size = tuple[float, float, float]

NEAR = math.sqrt(2.0)
"""Voxels whose sides differ by less than this factor count as isotropic."""

_BUFFERS = 4
"""Blocks in memory at once: what is read, its downsampled part, the result and its shard."""


def factors(shape: Triple, voxel_size: Size, block: Triple, levels: int | None) -> list[Triple]:
    """Voxels of the finest level per voxel of each coarser level, (z, y, x).

    The axes with the finest voxels are halved first, until voxels are about
    isotropic; from then on all axes are.

    Parameters
    ----------
    shape : tuple of int
        Extent of the finest level in voxels.
    voxel_size : tuple of float
        nm; only the ratios matter.
    block : tuple of int
        Levels end with the first that is nowhere longer than this, in voxels.
    levels : int or None
        Number of levels, in place of `block`; fewer if one voxel is left before.

    Examples
    --------
    >>> factors((100, 2000, 2000), (40.0, 4.0, 4.0), (256, 256, 256), None)
    [(1, 2, 2), (1, 4, 4), (1, 8, 8)]
    >>> factors((100, 100, 100), (10.0, 10.0, 10.0), (256, 256, 256), 2)
    [(2, 2, 2), (4, 4, 4)]
    """
    found: list[Triple] = []
    now: Triple = (1, 1, 1)
    while (levels is None and _larger(_coarse(shape, now), block)) or len(found) < (levels or 0):
        # An axis of one voxel cannot be halved, so its size says nothing about the others.
        sizes = [
            v * f if n > 1 else math.inf
            for v, f, n in zip(voxel_size, now, _coarse(shape, now), strict=True)
        ]
        coarsest = max((size for size in sizes if size < math.inf), default=0.0)
        limit = coarsest / NEAR if min(sizes) <= coarsest / NEAR else coarsest
        finer = now
        now = triple(f * 2 if size <= limit else f for f, size in zip(now, sizes, strict=True))
        if now == finer:
            break
        found.append(now)
    return found


def steps(job: Job, upstream: list[Step]) -> list[Step]:
    """One step per coarser level, each after the one before it.

    Raises
    ------
    ConfigError
        If no step before these writes labels.
    """
    names = [step.name for step in upstream]
    if not names:
        raise ConfigError("a pyramid of labels needs a decoder before it; set `decoder`")
    before = "relabel" if "relabel" in names else names[-1]
    finer: Triple = (1, 1, 1)
    found = []
    config = job.config
    levels = factors(job.shape, job.voxel_size, config.block, config.pyramid)
    for level, factor in enumerate(levels, start=1):
        block = triple(b * f for b, f in zip(config.block, factor, strict=True))
        step = _step(job, level, finer, factor, Grid(job.roi, block), before)
        found.append(step)
        before, finer = step.name, factor
    return found


def _step(job: Job, level: int, finer: Triple, factor: Triple, grid: Grid, before: str) -> Step:
    places = zip(job.translation, job.voxel_size, factor, strict=True)
    n_bytes = job.roi.n_voxels * 8
    return Step(
        name=f"pyramid-{level}",
        process=process,
        prepare=prepare,
        params={
            "labels": job.path("labels"),
            "level": level,
            "finer": list(finer),
            "factor": list(factor),
            "block": list(job.config.block),
            "voxel_size": [v * f for v, f in zip(job.voxel_size, factor, strict=True)],
            # OME-Zarr's translation is the centre of a voxel, which moves as voxels grow.
            "translation": [t + v * (f - 1) / 2 for t, v, f in places],
        },
        paths=("labels",),
        outputs=(f"labels/s{level}/",),
        grid=grid,
        after=(before,),
        peak_bytes=_BUFFERS * 8 * math.prod(job.config.block),
        bytes_read=n_bytes // math.prod(finer),
        bytes_written=n_bytes // math.prod(factor),
    )


def prepare(params: Params) -> None:
    """Create the array of a level, of the extent that the finer one has by now."""
    finer = open_array(_url(params, -1))
    create_array(
        _url(params),
        shape=_coarse(finer.shape, _ratio(params)),
        dtype=finer.dtype,
        block=triple(params["block"]),
        voxel_size=tuple(params["voxel_size"]),
        translation=tuple(params["translation"]),
        kind="labels",
    )


def process(params: Params, block: Block) -> Counters:
    """Write the voxels of a level that meet `block`, in parts of about a block that is read."""
    finer, coarse = open_array(_url(params, -1)), open_array(_url(params))
    factor = params["factor"]
    box = Box.between(
        triple(o // f for o, f in zip(block.box.offset, factor, strict=True)),
        _coarse(block.box.end, triple(factor)),
    )
    result = np.zeros(box.shape, coarse.dtype)
    part = triple(max(1, b // r) for b, r in zip(params["block"], _ratio(params), strict=True))
    for piece in Grid(box, part, anchor=box.offset):
        values = downsample(finer, piece.box, _ratio(params))
        result[piece.box.relative_to(box.offset).slices] = values
    coarse.write(box, result)
    read = result.nbytes * math.prod(_ratio(params))
    return {"bytes_read": read, "bytes_written": result.nbytes}


def downsample(finer: OutputArray, box: Box, ratio: Triple) -> npt.NDArray[np.unsignedinteger]:
    """The most frequent label of every cell in `box` (of the coarser array).

    Parameters
    ----------
    finer : OutputArray
        Labels, shape (z, y, x).
    box : Box
        Cells; cell (0, 0, 0) begins at voxel (0, 0, 0).
    ratio : tuple of int
        Voxels per cell, (z, y, x); cells at the upper end may be clipped.
    """
    begin = triple(o * r for o, r in zip(box.offset, ratio, strict=True))
    end = triple(min(e * r, n) for e, r, n in zip(box.end, ratio, finer.shape, strict=True))
    values = ts.array(finer.read(Box.between(begin, end)), context=context())
    found: npt.NDArray[np.unsignedinteger] = (
        ts.downsample(values, list(ratio), "mode").read().result()
    )
    return found


def _ratio(params: Params) -> Triple:
    return triple(f // p for f, p in zip(params["factor"], params["finer"], strict=True))


def _url(params: Params, step: int = 0) -> str:
    return f"{params['labels']}/s{params['level'] + step}"


def _coarse(shape: Triple, factor: Triple) -> Triple:
    return triple(-(-n // f) for n, f in zip(shape, factor, strict=True))


def _larger(shape: Triple, block: Triple) -> bool:
    return any(n > b for n, b in zip(shape, block, strict=True))
