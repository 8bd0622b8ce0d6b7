"""A commented configuration from what a volume says of itself."""

from __future__ import annotations

import json
import re

import yaml

from pipeline.config import parse
from pipeline.errors import ConfigError
from pipeline.geometry import Box, Grid, Triple, triple
from pipeline.store import open_store
from pipeline.volumes import Size, Volume, open_volume

_SIDE = 256
"""Side of a block where the volume has room for many."""

_MANY = 8
"""Blocks that a volume shall have at least, so that workers share it."""

_SHIPPED = "fib25-affinities"


def write_configuration(
    raw: str, output: str, *, voxel_size: Size | None, axes: str | None, force: bool
) -> str:
    """Write a configuration for a volume to a file or URL; returns what to tell the user.

    Raises
    ------
    ConfigError
        If the file exists and `force` is not set.
    VolumeError
        If the volume cannot be opened, or its axes are unknown.
    """
    folder, _, name = output.rpartition("/")
    store = open_store(folder or ".")
    if store.read(name) is not None and not force:
        raise ConfigError(f"{output!r} exists; give another name with -o, or --force to replace it")
    volume = open_volume(raw, voxel_size=voxel_size, axes=axes)
    text = configuration(volume, raw, voxel_size=voxel_size, axes=axes)
    if volume.voxel_size is not None:
        parse(text, output)
    store.write(name, text.encode())
    missing = "" if volume.voxel_size else ", after adding the voxel size, which RAW does not carry"
    return f"wrote {output}; look at it{missing}, then: raphe plan {output}"


def configuration(
    volume: Volume, url: str, *, voxel_size: Size | None = None, axes: str | None = None
) -> str:
    """The configuration as YAML with comments.

    Parameters
    ----------
    volume : Volume
        Raw data if it has no channel axis, affinities if it has one.
    url : str
        As the user writes it.
    voxel_size, axes : optional
        What the user said in place of the volume's metadata.
    """
    head = [
        f"# {volume.format}, {_row(volume.shape)} voxels (z y x), {volume.dtype}"
        + (f", {volume.channels} channels" if volume.channels else ""),
        f"# axes {''.join(volume.axes)} ({volume.axes_source})",
    ]
    lines = [*head, *_input(volume, url), "output: segmentation.zarr"]
    lines.append("# the finest labels will be at segmentation.zarr/labels/s0")
    lines += _voxel_size(volume, given=voxel_size)
    if axes is not None:
        lines.append(f"axes: {axes}")
    lines += [
        f"# roi: {{offset: [0, 0, 0], shape: {_row(volume.shape)}}}  # voxels, z y x",
        "# mask: mask.zarr  # 0 where nothing shall be processed",
        f"block: {_row(choose_block(volume.shape))}  # voxels; never changes the labels",
        *_segment(volume),
        "relabel: packed  # or consecutive: 1...n",
        "cluster: {kind: local, workers: 2}",
    ]
    return "\n".join(lines) + "\n"


def _segment(volume: Volume) -> list[str]:
    """The decoder's parameters; only as comments where a model may know better ones."""
    lines = [
        "segment:",
        "  low: 0.02  # affinities below this are no connection",
        "  supervoxel: {affinity: 0.02, size: 50}  # specks join before; null: none",
        "  linkage: mean  # or quantile-50, ...",
        "  threshold: 0.55  # higher: more splits; lower: more merges",
        "  absorb_size: 600  # voxels; smaller segments join a neighbour",
        "  min_size: 0  # voxels; smaller segments become 0",
    ]
    if volume.channels:
        return lines
    return [
        "# what segment does not say is as the model's own validation found it best, else this:",
        *(f"# {line}" for line in lines),
    ]


def choose_block(shape: Triple) -> Triple:
    """A block of some 256³ voxels, smaller in a small volume, wider in a thin one.

    Examples
    --------
    >>> choose_block((1000, 1000, 1000)), choose_block((30, 4096, 4096))
    ((256, 256, 256), (32, 512, 512))
    >>> choose_block((100, 250, 250))
    (64, 64, 64)
    """
    side = _SIDE
    while side > 64 and _count(shape, _cube(shape, side)) < _MANY:
        side //= 2
    block = _cube(shape, side)
    wider = triple((block[0], *(min(2 * side, _up(n)) for n in shape[1:])))
    fits = wider[0] * wider[1] * wider[2] <= side**3
    return wider if fits and _count(shape, wider) >= _MANY else block


def _cube(shape: Triple, side: int) -> Triple:
    return triple(min(side, _up(n)) for n in shape)


def _count(shape: Triple, block: Triple) -> int:
    return len(Grid(Box((0, 0, 0), shape), block))


def _up(n: int) -> int:
    return -(-n // 32) * 32


def _input(volume: Volume, url: str) -> list[str]:
    if volume.channels is None:
        return [f"raw: {_text(url)}", f"model: {_SHIPPED}  # or a model directory"]
    lines = [f"affinities: {_text(url)}"]
    if volume.offsets is None:
        lines.append(
            "offsets: [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]"
            "  # of the channels; the volume carries none: check them"
        )
    return lines


def _voxel_size(volume: Volume, *, given: Size | None) -> list[str]:
    if given is not None:
        return [f"voxel_size: {_row(given)}  # nm, z y x"]
    if volume.voxel_size is None:
        return ["# voxel_size: [10, 10, 10]  # nm, z y x; the volume carries none: fill in"]
    return [f"# voxel size {_row(volume.voxel_size)} nm (z y x), from the volume"]


def _text(value: str) -> str:
    """A string in YAML, in quotes where it would be read as something else without them."""
    if re.fullmatch(r"[\w./][\w./:~+-]*\w", value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _row(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:.15g}" for value in values) + "]"
