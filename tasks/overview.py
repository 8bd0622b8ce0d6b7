"""One picture of a run: raw, affinities, labels and truth side by side.

Labels are coloured by their ids. A segment of the truth takes the colour of the
label that it shares most voxels with: an object that was found has one colour in
both, a false merge shows as truth segments of equal colour, a false split as a
truth segment with several colours of labels in its place. Ticks on the sides of
the labels mark where blocks meet.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.geometry import Triple
from tasks.colours import over_grey
from tasks.evaluate.contingency import contingency
from tasks.evaluate.difference import main_partners

Array = npt.NDArray[Any]

COLUMNS = ("raw", "affinities (z, y, x as r, g, b)", "labels", "truth")


@dataclass(frozen=True)
class Overview:
    """What is drawn.

    Parameters
    ----------
    raw : ndarray of uint8, shape (z, y, x)
    affinities : ndarray of uint8, shape (3, z, y, x)
    labels, truth : ndarray of int, shape (z, y, x)
        Segments; in `truth`, 0 is not labelled.
    block : tuple of int
        Voxels of a block, (z, y, x).
    voxel_size : tuple of float
        nm, (z, y, x).
    """

    raw: Array
    affinities: Array
    labels: Array
    truth: Array
    block: Triple
    voxel_size: tuple[float, float, float]


def draw(overview: Overview, title: str, sections: int = 3) -> bytes:
    """The picture as PNG, with one row for each of some sections, evenly spaced in z."""
    depth, height, width = overview.raw.shape
    aspect = overview.voxel_size[1] * height / (overview.voxel_size[2] * width)
    figure = Figure(figsize=(13, 3.18 * aspect * sections + 0.75), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(sections, len(COLUMNS), squeeze=False)
    truth = matched(overview.truth, overview.labels)
    for row, axis in enumerate(axes):
        z = (2 * row + 1) * depth // (2 * sections)
        grey = overview.raw[z]
        pictures = (
            np.repeat(grey[..., None], 3, axis=-1),
            np.moveaxis(overview.affinities[:, z], 0, -1),
            over_grey(overview.labels[z], grey),
            over_grey(truth[z], grey),
        )
        for picture, panel in zip(pictures, axis, strict=True):
            _show(panel, picture, overview.voxel_size)
        axis[0].set_ylabel(f"z = {z}")
        _mark_blocks(axis[2], overview.block)
    for panel, name in zip(axes[0], COLUMNS, strict=True):
        panel.set_title(name, fontsize=10)
    _add_scale_bar(axes[-1][0], overview)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def matched(truth: Array, labels: Array) -> Array:
    """Truth under the ids of the labels that its segments share most voxels with."""
    inside = (truth != 0) & (labels != 0)
    partners = main_partners(contingency(truth, labels, inside))
    renamed = partners.partner(truth)
    # A segment that no label touches keeps its own colour, but not one of a label.
    alone = (renamed == 0) & (truth != 0)
    renamed[alone] = truth[alone].astype(np.uint64) | np.uint64(1 << 63)
    return renamed


def _show(panel: Axes, picture: Array, voxel_size: tuple[float, float, float]) -> None:
    panel.imshow(picture, interpolation="nearest", aspect=voxel_size[1] / voxel_size[2])
    panel.set_xticks([])
    panel.set_yticks([])


def _mark_blocks(panel: Axes, block: Triple) -> None:
    bottom, top = sorted(panel.get_ylim())
    left, right = panel.get_xlim()
    panel.set_xticks(np.arange(block[2] - 0.5, right, block[2]), [])
    panel.set_yticks(np.arange(block[1] - 0.5, top, block[1]), [])
    panel.tick_params(length=5, width=1.2, top=True, right=True)
    panel.set_xlim(left, right)
    panel.set_ylim(top, bottom)


def _add_scale_bar(panel: Axes, overview: Overview) -> None:
    """A bar of 1, 2 or 5 times a power of ten nm, about a quarter of the width."""
    height, width = overview.raw.shape[1:]
    wanted = width * overview.voxel_size[2] / 4
    power = 10.0 ** np.floor(np.log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    x, y = 0.05 * width, 0.94 * height
    panel.plot([x, x + length / overview.voxel_size[2]], [y, y], color="white", linewidth=3)
    panel.text(x, y - 0.03 * height, f"{length:g} nm", color="white", fontsize=9, va="bottom")
