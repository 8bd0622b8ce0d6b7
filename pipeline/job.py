"""What a run is about: its input, checked against the configuration, and its steps."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.defaults import with_defaults
from pipeline.errors import ConfigError
from pipeline.geometry import Box
from pipeline.steps import Job, Step, builder
from pipeline.volumes import Volume, open_volume

NO_DECODER = "none"
"""The decoder of a run that ends with what the network predicts."""


def make_job(config: Config) -> Job:
    """Open the input, check what the configuration says of it, and complete the configuration.

    Raises
    ------
    ConfigError
        If the region of interest, the mask or the voxel size do not fit the input.
    VolumeError
        If the input or the mask cannot be opened.
    """
    config = with_defaults(config)
    url = config.raw or config.affinities
    assert url is not None  # noqa: S101 - the configuration has one of both
    volume = open_volume(url, voxel_size=config.voxel_size, axes=config.axes)
    if volume.voxel_size is None:
        raise ConfigError(
            f"{url!r} carries no voxel size; add voxel_size: [z, y, x] in nm to the configuration"
        )
    identity = {"input": dict(volume.identity)}
    if config.mask is not None:
        identity["mask"] = dict(_open_mask(config.mask, volume).identity)
    return Job(
        config=config,
        shape=volume.shape,
        voxel_size=volume.voxel_size,
        translation=volume.translation,
        roi=_roi(config, volume),
        identity=identity,
    )


def _open_mask(url: str, volume: Volume) -> Volume:
    mask = open_volume(url, voxel_size=volume.voxel_size)
    if mask.shape != volume.shape or mask.channels is not None:
        channels = f" and {mask.channels} channels" if mask.channels else ""
        raise ConfigError(
            f"mask {url!r} has the shape {mask.shape}{channels}, the input {volume.shape} voxels "
            "(z, y, x); give a mask of the same voxels, without channels"
        )
    return mask


def _roi(config: Config, volume: Volume) -> Box:
    whole = Box((0, 0, 0), volume.shape)
    if config.roi is None:
        return whole
    roi = Box(config.roi.offset, config.roi.shape)
    if not whole.contains(roi):
        raise ConfigError(
            f"roi from {roi.offset} to {roi.end} leaves the volume, which has voxels from "
            f"(0, 0, 0) to {volume.shape} (z, y, x, the end not included); choose a roi inside"
        )
    return roi


def make_steps(job: Job) -> list[Step]:
    """The steps of a run: prediction (from raw), and unless there is no decoder it and the pyramid.

    Raises
    ------
    ConfigError
        If nothing would be done.
    """
    config = job.config
    names = ["predict"] if config.raw is not None else []
    if config.decoder != NO_DECODER:
        names += [config.decoder, "pyramid"]
    if not names:
        raise ConfigError(
            f"decoder: {NO_DECODER} and affinities to start from leave nothing to do; "
            "set decoder: exact, or give raw and a model"
        )
    steps: list[Step] = []
    upstream: list[Step] = []
    for name in names:
        upstream = builder(name)(job, upstream)
        steps.extend(upstream)
    return steps
