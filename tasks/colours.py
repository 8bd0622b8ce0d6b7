"""Colours of segments: a hash of the id, so that they mean nothing but difference.

The same id has the same colour in every picture, whatever else is in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import hsv_to_rgb

Colours = npt.NDArray[Any]

_MIX = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio: multiplying by it spreads consecutive ids (Knuth, TAOCP 6.4)."""


def colours(ids: npt.NDArray[Any]) -> Colours:
    """RGB in 0…1, shape (…, 3), of ids of shape (…); id 0 is black."""
    distinct, inverse = np.unique(ids.astype(np.uint64), return_inverse=True)
    mixed = (distinct ^ (distinct >> np.uint64(29))) * _MIX
    mixed = (mixed ^ (mixed >> np.uint64(32))) * _MIX
    hue = (mixed >> np.uint64(44)) / 2.0**20
    saturation = 0.45 + 0.45 * ((mixed >> np.uint64(34)) & np.uint64(1023)) / 1023.0
    value = 0.7 + 0.3 * ((mixed >> np.uint64(24)) & np.uint64(1023)) / 1023.0
    palette = hsv_to_rgb(np.stack([hue, saturation, value], axis=-1)).astype(np.float32)
    palette[distinct == 0] = 0
    found: Colours = palette[inverse.reshape(ids.shape)]
    return found


def over_grey(ids: npt.NDArray[Any], grey: npt.NDArray[Any]) -> Colours:
    """Segments of a section as colours over its raw voxels, their outlines dark.

    Parameters
    ----------
    ids : ndarray of int, shape (h, w)
    grey : ndarray of uint8, shape (h, w)
    """
    light = 0.35 + 0.65 * grey[..., None].astype(np.float32) / 255
    picture = colours(ids) * light
    picture[outlines(ids)] *= 0.35
    return picture


def outlines(ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Pixels of a section that differ from the one below or to the right of them."""
    edge = np.zeros(ids.shape, np.bool_)
    edge[:-1] |= ids[:-1] != ids[1:]
    edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    return edge
