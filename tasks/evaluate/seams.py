"""A picture of where two segmentations differ, in which seams are seen.

A single section hardly shows a seam. Added up along an axis, differences that
follow the faces of blocks become lines, and differences that follow the tissue
become clouds.
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.geometry import Box, triple
from tasks.colours import colours
from tasks.evaluate.blockwise import Array, Pair
from tasks.evaluate.difference import Matching

LARGEST = (128, 768, 768)
"""Voxels of the middle of the region that are drawn, at most."""


def central(region: Box) -> Box:
    """The middle of a region, as far as it is drawn."""
    shape = triple(min(n, most) for n, most in zip(region.shape, LARGEST, strict=True))
    offset = triple(
        o + (n - s) // 2 for o, n, s in zip(region.offset, region.shape, shape, strict=True)
    )
    return Box(offset, shape)


def draw_seams(pair: Pair, matching: Matching, title: str) -> bytes:
    """The picture as PNG: both volumes and their difference, as sections and added up."""
    box = central(pair.roi)
    a, b, _ = pair.read(box)
    different = matching.differs(a, b)
    z = box.shape[0] // 2
    figure = Figure(figsize=(13, 9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    (first, second, third), below = figure.subplots(2, 3)
    # Partners share a colour, so that what changes colour is what differs.
    back = Matching(*_ascending(matching.b, matching.a))
    partner = back.partner(b)
    renamed = np.where(partner > 0, partner, b.astype(np.uint64))
    section = f"section z = {box.offset[0] + z}"
    _show(first, colours(a[z]), f"A, {section}", box, (1, 2))
    _show(second, colours(renamed[z]), f"B, {section}", box, (1, 2))
    _show(third, different[z], f"where they differ, {section}", box, (1, 2))
    for axis, panel in enumerate(below):
        rest = tuple(d for d in range(3) if d != axis)
        name = f"share that differs along {'zyx'[axis]}"
        _show(panel, different.mean(axis=axis), name, box, (rest[0], rest[1]))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def _show(panel: Axes, picture: Array, title: str, box: Box, axes: tuple[int, int]) -> None:
    row, column = axes
    extent = (
        box.offset[column] - 0.5,
        box.end[column] - 0.5,
        box.end[row] - 0.5,
        box.offset[row] - 0.5,
    )
    panel.imshow(picture, cmap="magma", interpolation="nearest", extent=extent)
    panel.set_title(title, fontsize=10)
    panel.set_ylabel("zyx"[row])
    panel.set_xlabel("zyx"[column])


def _ascending(keys: Array, values: Array) -> tuple[Array, Array]:
    order = np.argsort(keys)
    return keys[order], values[order]
