"""Predict affinities or distances from raw data with a network.

A voxel's prediction depends on the voxel's place, the volume and the model
alone, up to rounding: tiles lie on a grid anchored at voxel 0, have all the
context that the network looks at, and are mirrored at the volume's border.
Tiles never depend on the block that asks for them, so with one tile shape
predictions are the same for every block shape to the last bit. A block is a
whole number of tiles, and is written at once.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import torch

from pipeline.arrays import create_array, open_array
from pipeline.errors import ConfigError, ModelError
from pipeline.geometry import Block, Box, Grid, Triple, triple
from pipeline.steps import Counters, Job, Params, Step
from pipeline.volumes import open_volume
from tasks.networks import regimes
from tasks.networks.blend import check_blend, predict_blended
from tasks.networks.flow import predict_tiles as predict_tiles
from tasks.networks.model import Description, find_model, read_description
from tasks.networks.predictor import find_device
from tasks.networks.projection import peak_bytes, reach_of, tiles_of, voxels_read
from tasks.networks.regimes import Regime
from tasks.networks.tile import Needs
from tasks.targets.affinities import NEAREST
from tasks.tiles import whole_tiles

SIDE = 128
"""Side of a tile's core, in voxels of the finest axis, if none is configured. Smaller ones
spend their time on context, larger ones need more than 2 GiB."""


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
    models = [config.model] if isinstance(config.model, str) else list(config.model or [])
    descriptions = {model: read_description(find_model(model)) for model in models}
    regime = Regime.of(models, config.predict)
    needs = regime.needs(descriptions)
    raw = open_volume(str(config.raw), voxel_size=config.voxel_size, axes=config.axes)
    if raw.channels is not None:
        raise ModelError(
            f"{raw.url} has {raw.channels} channels; the model takes one. Give one channel."
        )
    for model, description in descriptions.items():
        _check_head(model, description, regime.head)
        description.check_data(raw.voxel_size, raw.dtype)
    first = descriptions[models[0]]
    tile = config.predict.tile or default_tile(first, needs.stride)
    _check_tile(tile, needs)
    if config.predict.blend is not None:
        check_blend(config.predict.blend, tile, needs)
    params = _params(job, regime, descriptions, tile)
    reach = reach_of(params, needs)
    channels = params["channels"]
    return [
        Step(
            name="predict",
            process=process,
            params=params,
            grid=Grid(job.roi, triple(params["block"])),
            after=tuple(step.name for step in upstream),
            lower=reach,
            upper=reach,
            resource="GPU" if find_device(config.predict.device).type == "cuda" else "CPU",
            prepare=prepare,
            peak_bytes=peak_bytes(params, needs, descriptions, raw.dtype.itemsize),
            bytes_read=voxels_read(params, needs, raw.shape) * raw.dtype.itemsize,
            bytes_written=channels * job.roi.n_voxels,
            # What of the region and the volume a block sees is in its own geometry.
            paths=("raw", "model", "output", "roi", "array", "device", "workers"),
            outputs=(f"{config.predict.output}/s0/",),
        )
    ]


def default_tile(description: Description, stride: Triple | None = None) -> Triple:
    """A core of about `SIDE` voxels on the finest axis, as large in nm on the others."""
    finest = min(description.voxel_size)
    strides = stride or description.network.stride
    sides = zip(strides, description.voxel_size, strict=True)
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
    network = regimes.load(_regime(params))
    raw = open_volume(params["raw"], voxel_size=params["voxel_size"], axes=params["axes"])
    blended = params["blend"] is not None
    wanted = _in_mask(params, tiles_of(params, network.needs, raw.shape, block.box), block.box)
    if blended:
        blend = triple(params["blend"])
        values, n_read = predict_blended(network, raw, wanted, block.box, blend)
    else:
        values, n_read = predict_tiles(network, raw, wanted, block.box)
    open_array(_url(params)).write(block.box, values)
    return {"bytes_read": n_read, "bytes_written": values.nbytes, "tiles": len(wanted)}


def _params(
    job: Job, regime: Regime, descriptions: dict[str, Description], tile: Triple
) -> dict[str, Any]:
    config = job.config
    head = next(iter(descriptions.values())).head(regime.head)
    mask = open_volume(config.mask, voxel_size=config.voxel_size) if config.mask else None
    one = len(regime.models) == 1
    return {
        "raw": config.raw,
        "voxel_size": config.voxel_size,
        "axes": config.axes,
        "mask": mask and {"url": config.mask, "identity": dict(mask.identity)},
        "model": config.model,
        "weights": regime.weights[0] if one else list(regime.weights),
        "descriptions": [json.loads(described) for described in regime.descriptions],
        "head": regime.head,
        "channels": head.channels,
        "attributes": head.attributes(),
        "precision": regime.precision,
        "device": regime.device,
        "tta": regime.tta,
        "ensemble": regime.ensemble,
        "blend": config.predict.blend,
        "compile": regime.compiled,
        "tile": tile,
        "block": whole_tiles(config.block, tile),
        "roi": {"offset": job.roi.offset, "shape": job.roi.shape},
        "output": config.output,
        "array": {
            "shape": job.shape,
            "voxel_size": job.voxel_size,
            "translation": job.translation,
        },
        # Threads of one process share the cores; processes of one machine divide them.
        "workers": config.cluster.workers if config.cluster.processes else 1,
    }


def _regime(params: Params) -> Regime:
    models, weights = params["model"], params["weights"]
    return Regime(
        tuple([models] if isinstance(models, str) else models),
        tuple([weights] if isinstance(weights, str) else weights),
        tuple(json.dumps(described, sort_keys=True) for described in params["descriptions"]),
        params["head"],
        params["device"],
        params["precision"],
        params["tta"],
        params["ensemble"],
        params["blend"] is None,
        params["compile"],
    )


def _check_head(model: str, description: Description, name: str) -> None:
    head = description.head(name)
    if name == "affinities" and head.decoding != "affinities":
        raise ModelError(
            f"head {name!r} of model {model!r} has the offsets {getattr(head, 'offsets', None)}, "
            f"and a run segments {NEAREST}, in this order; use another model"
        )
    if name != "affinities" and head.decoding != "heights":
        raise ModelError(
            f"head {name!r} of model {model!r} is of kind {head.kind!r} and has {head.channels} "
            "channels, and of anything but affinities a run segments one, which is large inside "
            "objects; use another model"
        )


def _check_tile(tile: Triple, needs: Needs) -> None:
    if any(t <= 0 or t % s for t, s in zip(tile, needs.stride, strict=True)):
        near = triple(max(1, -(-t // s)) * s for t, s in zip(tile, needs.stride, strict=True))
        raise ConfigError(
            f"predict.tile: {tile} is not a multiple of the network's stride {needs.stride}; "
            f"{near} would be"
        )


def _in_mask(params: Params, tiles: list[Box], box: Box) -> list[Box]:
    """The tiles that have a voxel where the mask is not 0."""
    if params["mask"] is None:
        return tiles
    mask = open_volume(params["mask"]["url"], voxel_size=params["voxel_size"])
    # Where tiles are blended, all blocks that a tile reaches into must agree about it.
    seen = Box((0, 0, 0), mask.shape) if params["blend"] is not None else box
    return [tile for tile in tiles if mask.read(tile.intersect(seen)).any()]


def _url(params: Params) -> str:
    return f"{params['output'].rstrip('/')}/{params['head']}/s0"


def _n_cores() -> int:
    return len(os.sched_getaffinity(0))
