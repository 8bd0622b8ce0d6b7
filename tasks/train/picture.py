"""The picture of a validation: one section, as the network and the decoder see it."""

from __future__ import annotations

import numpy as np

from pipeline.geometry import Box
from pipeline.volumes import Volume
from tasks.overview import Overview, draw
from tasks.parts import Array

_DARKEST, _BRIGHTEST = 0.5, 99.5
"""Percentiles of the raw data that are shown black and white."""


def draw_validation(
    raw: Volume, box: Box, affinities: Array, labels: Array, truth: Array, scores: dict[str, float]
) -> bytes:
    """Raw data, affinities, labels and truth of the middle section, as PNG.

    Parameters
    ----------
    raw : Volume
    box : Box
        What was scored of it.
    affinities : ndarray of uint8
        (3, z, y, x) of the box.
    labels, truth : ndarray of int
        (z, y, x) of the box.
    scores : dict
        Of the labels, and the setting that they were made with.
    """
    z = box.shape[0] // 2
    middle = slice(z, z + 1)
    section = Box.between(
        (box.offset[0] + z, *box.offset[1:]), (box.offset[0] + z + 1, *box.end[1:])
    )
    grey = raw.read(section).astype(np.float32)
    low, high = np.percentile(grey, (_DARKEST, _BRIGHTEST))
    grey = np.clip((grey - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    overview = Overview(
        raw=grey,
        affinities=affinities[:, middle],
        labels=labels[middle],
        truth=truth[middle],
        block=box.shape,
        voxel_size=raw.voxel_size or (1.0, 1.0, 1.0),
    )
    title = (
        f"slice {section.offset[0]}: VOI split {scores['voi_split']:.3f}, merge "
        f"{scores['voi_merge']:.3f} bits, threshold {scores['threshold']:g}, absorb size "
        f"{scores['absorb_size']:g}"
    )
    return draw(overview, title, sections=1)
