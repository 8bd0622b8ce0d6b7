"""Predict affinities or distances from raw data with a network.

A voxel's prediction depends on the voxel's place, the volume and the model
alone, up to rounding: tiles lie on a grid anchored at voxel 0, have all the
context that the network looks at, and are mirrored at the volume's border.
Tiles never depend on the block that asks for them, so with one tile shape
predictions are the same for every block shape to the last bit. A block is a
whole number of tiles, and is written at once.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.arrays import create_array, open_array
from pipeline.errors import ConfigError, ModelError
from pipeline.geometry import Block, Box, Grid, Triple, triple
from pipeline.steps import Counters, Job, Params, Step
from pipeline.volumes import Volume, open_volume
from tasks.networks.model import Description, find_model, read_description, weights_hash
from tasks.networks.predictor import Predictor, find_device, predictor
from tasks.parts import Network
from tasks.targets.affinities import NEAREST, Affinities
from tasks.tiles import cores, read_ahead, read_mirrored, whole_tiles

SIDE = 128
"""Side of a tile's core, in voxels of the finest axis, if none is configured. Smaller ones
spend their time on context, larger ones need more than 2 GiB."""

OVERHEAD = 600 << 20
"""Bytes of a process with torch loaded, and what large pages and workspaces waste."""

AHEAD = 2
"""Tiles that are read before the network asks for them."""


def steps(job: Job, upstream: list[Step]) -> list[Step]:
    """The step ``predict``.

    Raises
    ------
    ModelError
        If there is no such model, or it is not for these data.
    ConfigError
        If the configured tile does not fit the network.
    """
    config = job.config
    folder = find_model(str(config.model))
    description = read_description(folder)
    head = description.head(config.predict.output)
    if isinstance(head, Affinities) and head.offsets != NEAREST:
        raise ModelError(
            f"head {config.predict.output!r} of model {config.model!r} has the offsets "
            f"{head.offsets}, and a run segments {NEAREST}, in this order; use another model"
        )
    raw = open_volume(str(config.raw), voxel_size=config.voxel_size, axes=config.axes)
    if raw.channels is not None:
        raise ModelError(
            f"{raw.url} has {raw.channels} channels; the model takes one. Give one channel."
        )
    description.check_data(raw.voxel_size, raw.dtype)
    tile = config.predict.tile or default_tile(description)
    needs = description.network
    _check_tile(tile, needs)
    block = whole_tiles(config.block, tile)
    params = _params(job, description, tile, block) | {
        "model": config.model,
        "weights": weights_hash(folder),
    }
    # Cores are rounded up to the stride where the region of interest cuts them.
    reach = triple(c + s - 1 for c, s in zip(needs.context, needs.stride, strict=True))
    return [
        Step(
            name="predict",
            process=process,
            params=params,
            grid=Grid(job.roi, block),
            after=tuple(step.name for step in upstream),
            lower=reach,
            upper=reach,
            resource="GPU" if find_device(config.predict.device).type == "cuda" else "CPU",
            prepare=prepare,
            peak_bytes=_peak_bytes(params, description, head.channels, raw.dtype.itemsize),
            bytes_read=_voxels_read(job.roi, tile, needs) * raw.dtype.itemsize,
            bytes_written=head.channels * job.roi.n_voxels,
            # What of the region and the volume a block sees is in its own geometry.
            paths=("raw", "model", "output", "roi", "array", "device", "workers"),
            outputs=(f"{config.predict.output}/s0/",),
        )
    ]


def default_tile(description: Description) -> Triple:
    """A core of about `SIDE` voxels on the finest axis, as large in nm on the others."""
    finest = min(description.voxel_size)
    sides = zip(description.network.stride, description.voxel_size, strict=True)
    return triple(max(1, round(SIDE * finest / size / stride)) * stride for stride, size in sides)


def prepare(params: Params) -> None:
    """Create the array that the step writes."""
    array = params["array"]
    create_array(
        _url(params),
        shape=triple(array["shape"]),
        dtype=np.uint8,
        block=triple(params["block"]),
        voxel_size=array["voxel_size"],
        translation=array["translation"],
        channels=params["channels"],
        attributes=params["attributes"],
        kind="image",
    )


def process(params: Params, block: Block) -> Counters:
    """Predict one block and write it."""
    torch.set_num_threads(max(1, _n_cores() // params["workers"]))
    network = predictor(
        find_model(params["model"]),
        params["weights"],
        params["head"],
        params["device"],
        params["precision"],
    )
    raw = open_volume(params["raw"], voxel_size=params["voxel_size"], axes=params["axes"])
    roi = Box(triple(params["roi"]["offset"]), triple(params["roi"]["shape"]))
    needs = network.description.network
    tiles = cores(block.box, roi, triple(params["tile"]), needs.stride)
    wanted = _in_mask(params, tiles, block.box)
    values, n_read = predict_tiles(network, raw, wanted, block.box)
    open_array(_url(params)).write(block.box, values)
    return {"bytes_read": n_read, "bytes_written": values.nbytes, "tiles": len(wanted)}


def predict_tiles(
    network: Predictor, raw: Volume, tiles: list[Box], box: Box
) -> tuple[npt.NDArray[np.uint8], int]:
    """Predict `tiles` while the next ones are read.

    Parameters
    ----------
    network : Predictor
        One head of a model.
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
    context = network.description.network.context
    values = np.zeros((network.head.channels, *box.shape), np.uint8)
    waiting: deque[tuple[Box, Any]] = deque()
    n_read = 0

    def read(tile: Box) -> npt.NDArray[Any]:
        return read_mirrored(raw.read, raw.shape, tile.grow(context, context))

    def place() -> None:
        tile, result = waiting.popleft()
        kept = tile.intersect(box)
        values[(..., *kept.relative_to(box.offset).slices)] = result()[
            (..., *kept.relative_to(tile.offset).slices)
        ]

    with ThreadPoolExecutor(AHEAD) as pool:
        for tile, voxels in read_ahead(pool, read, tiles, AHEAD):
            n_read += voxels.nbytes
            waiting.append((tile, network.submit(voxels)))
            if len(waiting) > 1:
                place()
        while waiting:
            place()
    return values, n_read


def _params(job: Job, description: Description, tile: Triple, block: Triple) -> dict[str, Any]:
    config = job.config
    head = description.head(config.predict.output)
    mask = open_volume(config.mask, voxel_size=config.voxel_size) if config.mask else None
    # Threads of one process share the cores; processes of one machine divide them.
    return {
        "raw": config.raw,
        "voxel_size": config.voxel_size,
        "axes": config.axes,
        "mask": mask and {"url": config.mask, "identity": dict(mask.identity)},
        "description": description.model_dump(mode="json", include={"network", "heads"})
        | {"normalisation": description.normalisation.model_dump()},
        "head": config.predict.output,
        "channels": head.channels,
        "attributes": head.attributes(),
        "precision": config.predict.precision,
        "device": config.predict.device,
        "tile": tile,
        "block": block,
        "roi": {"offset": job.roi.offset, "shape": job.roi.shape},
        "output": config.output,
        "array": {
            "shape": job.shape,
            "voxel_size": job.voxel_size,
            "translation": job.translation,
        },
        "workers": config.cluster.workers if config.cluster.processes else 1,
    }


def _check_tile(tile: Triple, needs: Network) -> None:
    try:
        needs.check_core(tile)
    except ModelError as error:
        raise ConfigError(f"predict.tile: {error}") from error


def _in_mask(params: Params, tiles: list[Box], box: Box) -> list[Box]:
    """The tiles that have a voxel in `box` where the mask is not 0."""
    if params["mask"] is None:
        return tiles
    mask = open_volume(params["mask"]["url"], voxel_size=params["voxel_size"])
    return [tile for tile in tiles if mask.read(tile.intersect(box)).any()]


def _url(params: Params) -> str:
    return f"{params['output'].rstrip('/')}/{params['head']}/s0"


def _n_cores() -> int:
    return len(os.sched_getaffinity(0))


def _voxels_read(roi: Box, tile: Triple, needs: Network) -> int:
    """Voxels of all tiles with their context: a product, since tiles are a product of axes."""
    total = 1
    for axis in range(3):
        column = Box(roi.offset, triple(roi.shape[i] if i == axis else 1 for i in range(3)))
        context = needs.context
        total *= sum(
            core.grow(context, context).shape[axis]
            for core in cores(column, roi, tile, needs.stride)
        )
    return total


def _peak_bytes(params: Params, description: Description, channels: int, itemsize: int) -> int:
    needs = description.network
    tile = triple(params["tile"])
    inputs = Box((0, 0, 0), needs.input_shape(tile)).n_voxels
    values = needs.activation_values(tile)
    width = 2 if params["precision"] == "bfloat16" else 4
    block = Box((0, 0, 0), triple(params["block"])).n_voxels
    return OVERHEAD + width * values + (4 + (AHEAD + 1) * itemsize) * inputs + 2 * channels * block
