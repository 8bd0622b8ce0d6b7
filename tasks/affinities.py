"""Affinities as every decoder reads them, whoever made them.

However they are stored, a decoder gets uint8 of shape (3, z, y, x) in which
channel d joins voxel v and v - e_d, and 0 wherever an edge may not exist:
outside the volume, the region of interest and the mask.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.arrays import open_array
from pipeline.errors import ConfigError, VolumeError
from pipeline.geometry import Box, Triple, triple
from pipeline.steps import Job, Params
from pipeline.volumes import Volume, open_volume

if TYPE_CHECKING:
    # A decoder's workers have no use for torch, which costs them seconds and memory.
    from tasks.parts import Decoding

UNITS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def frame(job: Job) -> dict[str, Any]:
    """The parameters that say where things lie, the same in every step of a decoder.

    Name them in `Step.paths` with `FRAME`: what a block holds follows from its
    own box, so a volume that grew or an output that moved redoes nothing.
    """
    return {
        "output": job.config.output,
        "roi": {"offset": job.roi.offset, "shape": job.roi.shape},
        "array": {
            "shape": job.shape,
            "block": job.config.block,
            "voxel_size": job.voxel_size,
            "translation": job.translation,
        },
    }


FRAME = ("output", "roi", "array")


def roi_of(params: Params) -> Box:
    """The region of interest in the parameters of a step."""
    return Box(triple(params["roi"]["offset"]), triple(params["roi"]["shape"]))


def affinity_params(job: Job) -> dict[str, Any]:
    """What `read_affinities` needs besides `frame`; goes under the key ``affinities``.

    Raises
    ------
    ConfigError
        If the channels of foreign affinities cannot be told.
    """
    config = job.config
    described: dict[str, Any] = {"source": None, "channels": [0, 1, 2], "shifts": [0, 0, 0]}
    if config.affinities is not None:
        volume = open_volume(config.affinities, voxel_size=config.voxel_size, axes=config.axes)
        described["source"] = config.affinities
        described["voxel_size"], described["axes"] = config.voxel_size, config.axes
        described["channels"], described["shifts"] = _nearest(volume, config.offsets)
    else:
        described["predicted"] = config.predict.output
    if config.mask is not None:
        described["mask"] = config.mask
    return described


def _nearest(volume: Volume, offsets: list[Triple] | None) -> tuple[list[int], list[int]]:
    """For each axis the channel of its nearest neighbour, and its shift."""
    found = volume.offsets or offsets
    if volume.dtype not in (np.uint8, np.float32):
        raise ConfigError(
            f"affinities at {volume.url} are {volume.dtype}; uint8 (0…255) or float32 (0…1) "
            "are read. Convert them first."
        )
    if found is None:
        raise ConfigError(
            f"affinities at {volume.url} do not say which neighbours their channels join; "
            "set offsets in the configuration, for example [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]"
        )
    if len(found) != volume.channels:
        raise ConfigError(
            f"affinities at {volume.url} have {volume.channels} channels, but offsets names "
            f"{len(found)}; give one offset for each channel"
        )
    named = [triple(offset) for offset in found]
    if offsets is not None and named != offsets:
        raise ConfigError(
            f"the configuration says offsets: {offsets}, but the metadata of {volume.url} says "
            f"{named}. Remove offsets from the configuration, or correct the metadata."
        )
    channels, shifts = [], []
    for unit in UNITS:
        below = triple(-step for step in unit)
        if below in named:
            channels.append(named.index(below))
            shifts.append(0)
        elif unit in named:
            # Stored at the lower voxel of the edge instead of the upper one.
            channels.append(named.index(unit))
            shifts.append(1)
        else:
            raise ConfigError(
                f"no channel of {volume.url} joins neighbours along {below}; "
                f"its offsets are {named}. Nearest neighbours on all three axes are needed."
            )
    return channels, shifts


def reach_below(params: Params) -> Triple:
    """Voxels that `read_affinities` reads below its box, (z, y, x)."""
    return (0, 0, 0) if params.get("predicted") in (None, "affinities") else (1, 1, 1)


def read_affinities(params: Params, box: Box) -> npt.NDArray[np.uint8]:
    """Affinities of the edges that end in `box`.

    Parameters
    ----------
    params : mapping
        Parameters of a step with what `frame` gives, and under ``affinities``
        what `affinity_params` gives.
    box : Box
        May reach beyond the region of interest.

    Returns
    -------
    ndarray of uint8, (3, z, y, x)

    Raises
    ------
    VolumeError
        If a value is not a number or lies outside 0…1.
    """
    described, roi = params["affinities"], roi_of(params)
    inside = box.intersect(roi)
    out = np.zeros((3, *box.shape), np.uint8)
    target = (slice(None), *inside.relative_to(box.offset).slices)
    if described["source"] is None:
        out[target] = _read_predicted(params, inside)
    else:
        out[target] = _read_foreign(described, inside)
    for d in range(3):
        if box.offset[d] <= roi.offset[d] < box.end[d]:
            # The first layer of the region has no edge to what lies below it.
            np.moveaxis(out[d], d, 0)[roi.offset[d] - box.offset[d]] = 0
    if "mask" in described:
        _apply_mask(out, params, box)
    return out


def _read_predicted(params: Params, box: Box) -> npt.NDArray[np.uint8]:
    name = params["affinities"]["predicted"]
    array = open_array(f"{params['output']}/{name}/s0")
    if name == "affinities":
        values: npt.NDArray[np.uint8] = array.read(box)
        return values
    wider = box.grow((1, 1, 1), (0, 0, 0)).intersect(roi_of(params))
    inside = box.relative_to(wider.offset).slices
    return affinities_of_heights(array.read(wider)[0])[(slice(None), *inside)]


def affinities_of(values: npt.NDArray[np.uint8], decoding: Decoding) -> npt.NDArray[np.uint8]:
    """What a decoder takes, (3, z, y, x), of the predictions (c, z, y, x) of a head."""
    return affinities_of_heights(values[0]) if decoding == "heights" else values


def affinities_of_heights(heights: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Affinities, (3, z, y, x), of what is large inside objects: the smaller of an edge's two ends.

    Edges that end in the first layer of an axis get 0.

    Examples
    --------
    >>> affinities_of_heights(np.array([[[7, 9, 2]]], np.uint8))[2].tolist()
    [[[0, 7, 2]]]
    """
    found = np.zeros((3, *heights.shape), np.uint8)
    for d in range(3):
        moved, ends = np.moveaxis(found[d], d, 0), np.moveaxis(heights, d, 0)
        np.minimum(ends[1:], ends[:-1], out=moved[1:])
    return found


def _read_foreign(described: dict[str, Any], box: Box) -> npt.NDArray[np.uint8]:
    volume = open_volume(
        described["source"], voxel_size=described["voxel_size"], axes=described["axes"]
    )
    out = np.zeros((3, *box.shape), np.uint8)
    whole = Box((0, 0, 0), volume.shape)
    # A read gives all channels; those of one shift lie in the same box.
    read = functools.lru_cache(maxsize=1)(volume.read)
    for d, (channel, shift) in enumerate(
        zip(described["channels"], described["shifts"], strict=True)
    ):
        moved = Box(
            triple(o - shift * u for o, u in zip(box.offset, UNITS[d], strict=True)), box.shape
        )
        stored = moved.intersect(whole)
        values = read(stored)[channel]
        if values.dtype != np.uint8:
            values = _to_levels(values, volume.url, stored)
        out[(d, *stored.relative_to(moved.offset).slices)] = values
    return out


def _to_levels(values: npt.NDArray[Any], url: str, box: Box) -> npt.NDArray[np.uint8]:
    if np.isnan(values).any():
        raise VolumeError(
            f"affinities at {url} hold {int(np.isnan(values).sum())} values that are not a number "
            f"(NaN) in {box}; replace them, or leave these voxels out by a mask or roi"
        )
    least, most = float(values.min(initial=0)), float(values.max(initial=0))
    if least < 0 or most > 1:
        raise VolumeError(
            f"affinities at {url} reach from {least:g} to {most:g} in {box}; float affinities "
            "must lie in 0…1. Rescale them, or store them as uint8."
        )
    levels: npt.NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
    return levels


def _apply_mask(out: npt.NDArray[np.uint8], params: Params, box: Box) -> None:
    """Remove the edges that have an end where the mask is 0."""
    mask = open_volume(
        params["affinities"]["mask"], voxel_size=tuple(params["array"]["voxel_size"])
    )
    grown = box.grow((1, 1, 1), (0, 0, 0))
    allowed = np.zeros(grown.shape, np.bool_)
    inside = grown.intersect(roi_of(params))
    allowed[inside.relative_to(grown.offset).slices] = mask.read(inside) != 0
    here = allowed[1:, 1:, 1:]
    out[0] *= here & allowed[:-1, 1:, 1:]
    out[1] *= here & allowed[1:, :-1, 1:]
    out[2] *= here & allowed[1:, 1:, :-1]
