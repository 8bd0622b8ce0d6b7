"""What the benchmarks of quality have in common: a model's affinities, and scores of labels.

Not a benchmark itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.config import Config, Segment
from pipeline.defaults import with_defaults
from pipeline.geometry import Box
from pipeline.volumes import open_volume
from tasks.affinities import affinities_of
from tasks.core import sweep
from tasks.evaluate import Contingency, contingency, score
from tasks.networks import regimes
from tasks.networks.model import find_model, read_description
from tasks.networks.regimes import Regime
from tasks.predict import default_tile, predict_tiles
from tasks.tiles import cores

Array = np.ndarray[Any, Any]
Row = dict[str, Any]

SCORES = ("voi_split", "voi_merge", "voi", "adapted_rand_error")
"""What is reported; variation of information in bits."""


def predicted(
    model: str, raw_url: str, slices: Sequence[int], **given: Any
) -> tuple[Config, Array]:
    """The settings of a run with a model's defaults, and the affinities of some slices.

    Parameters
    ----------
    model : str
        A shipped model's name, or a model directory.
    raw_url : str
        Volume without a stored voxel size: it is taken to have the model's.
    slices : sequence of int
        z from and to, not including. What lies beyond them is context, mirrored where
        the volume ends.
    **given
        Fields of ``predict`` in place of the model's defaults.

    Returns
    -------
    config : Config
    affinities : ndarray of uint8, (3, z, y, x)
    """
    description = read_description(find_model(model))
    size = description.voxel_size
    asked = Config(raw=raw_url, model=model, output="unused", voxel_size=size, predict=given)
    config = with_defaults(asked)
    raw = open_volume(raw_url, voxel_size=size)
    description.check_data(raw.voxel_size, raw.dtype)
    box = Box.between((slices[0], 0, 0), (slices[1], *raw.shape[1:]))
    network = regimes.load(Regime.of([model], config.predict))
    stride = network.needs.stride
    tiles = cores(box, box, default_tile(description, stride), stride)
    return config, affinities_of(predict_tiles(network, raw, tiles, box)[0], network.head.decoding)


def settings_of(config: Config) -> Row:
    """How the model was used."""
    return {
        "predict": config.predict.model_dump(mode="json", include={"output", "tta"}),
        "segment": config.segment.model_dump(mode="json"),
    }


def scores_of(table: Contingency) -> dict[str, float]:
    """What is reported of a table."""
    found = score(table)
    return {name: round(getattr(found, name), 4) for name in SCORES}


def curve(truth: Array, affinities: Array, segment: Segment, thresholds: Iterable[float]) -> Row:
    """Scores by threshold, on all voxels whose truth is not 0."""
    settings = [segment.model_copy(update={"threshold": round(each, 4)}) for each in thresholds]
    found = zip(settings, sweep(affinities, settings), strict=True)
    return {str(each.threshold): scores_of(contingency(truth, labels)) for each, labels in found}
