"""Which axis of a stored array is which, and bringing them into the order (c) z y x.

Invariant: names come from metadata or from the configuration, which must not
contradict each other; only a 3-D array without either follows the documented
convention of its format, and whoever asks is told so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import VolumeError
from pipeline.formats import Source

Size = tuple[float, float, float]


def find_axes(source: Source, given: str | None) -> tuple[tuple[str, ...], str]:
    """Names of the stored axes in storage order, and where they are known from.

    Parameters
    ----------
    source : Source
        The array.
    given : str or None
        What the configuration says, such as ``"czyx"``.

    Raises
    ------
    VolumeError
        If they are unknown, contradictory, or not those of a volume.
    """
    if given is not None:
        names = tuple(given.lower())
        if source.axes is not None and source.axes != names:
            raise VolumeError(
                f"the configuration says axes: {given}, but the metadata of {source.url} says "
                f"{' '.join(source.axes)}. Remove axes from the configuration, or correct the "
                "metadata."
            )
        origin = "configuration"
    elif source.axes is not None:
        names, origin = source.axes, "metadata"
    elif len(source.shape) == 3:
        names, origin = tuple(source.usual_axes), f"convention of {source.format}"
    else:
        raise VolumeError(
            f"{source.url} has shape {source.shape} and nothing says which axis is which; "
            "give their order in the configuration, for example `axes: czyx`"
        )
    _check(source, names)
    return names, origin


def _check(source: Source, names: tuple[str, ...]) -> None:
    if len(names) != len(source.shape):
        raise VolumeError(
            f"{source.url} has {len(source.shape)} axes (shape {source.shape}), but "
            f"{len(names)} are named: {' '.join(names)}. Correct `axes` in the configuration."
        )
    if any(names.count(n) != 1 for n in "zyx") or names.count("c") > 1:
        raise VolumeError(
            f"the axes of {source.url} are {' '.join(names)}, but a volume has z, y and x once "
            "and at most one c. Give the order in the configuration, for example `axes: czyx`, "
            "or correct the metadata."
        )
    for name, n in zip(names, source.shape, strict=True):
        if name not in ("z", "y", "x", "c") and n != 1:
            raise VolumeError(
                f"axis {name} of {source.url} has length {n}; only z, y, x and c may be longer "
                "than 1. Store one volume per array."
            )


def to_zyx(values: Size | None, names: tuple[str, ...]) -> Size | None:
    """Three values, one for each axis of space as they are stored, in the order z y x."""
    if values is None:
        return None
    space = [n for n in names if n in ("z", "y", "x")]
    place = dict(zip(space, values, strict=True))
    return place["z"], place["y"], place["x"]


def ordered(
    values: npt.NDArray[Any], names: tuple[str, ...], channels: int | None
) -> npt.NDArray[Any]:
    """Values in the order (c) z y x, without the axes of length 1 that are no part of it."""
    kept = "zyx" if channels is None else "czyx"
    order = [names.index(n) for n in kept]
    rest = [i for i in range(len(names)) if i not in order]
    moved = values.transpose(rest + order)[(0,) * len(rest)]
    return np.ascontiguousarray(moved, dtype=values.dtype.newbyteorder("="))
