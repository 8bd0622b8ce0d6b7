"""The score of a network on slices that it never learnt from.

What is scored is what a run would make of them: predicted affinities, the exact
decoder with its default parameters, variation of information against the
labels. Unlike a loss, it says whether objects come out whole.
"""

from __future__ import annotations

from pipeline.config import Segment
from pipeline.errors import ConfigError
from tasks.core import segment_volume
from tasks.evaluate.contingency import contingency
from tasks.evaluate.scores import score
from tasks.networks.model import Description
from tasks.networks.predictor import Predictor, find_device
from tasks.networks.unet import Unet
from tasks.predict import default_tile, predict_tiles
from tasks.tiles import cores
from tasks.train.config import Training
from tasks.train.data import open_pair, used_box


def check_validation(config: Training, description: Description) -> None:
    """Refuse what could not be scored, before hours are spent on learning.

    Raises
    ------
    ConfigError
        If nothing is labelled, or some of it is learnt from.
    ModelError
        If the raw data are of another dtype than those that are learnt from.
    """
    scored = config.validation
    raw, labels = open_pair(scored, config.voxel_size)
    description.check_data(raw.voxel_size, raw.dtype)
    box = used_box(scored, raw.shape)
    if not labels.read(box).any():
        raise ConfigError(
            f"validation: {scored.labels!r} is 0 in all slices that are used, so nothing can be "
            "scored; choose other slices"
        )
    for learnt in config.training:
        common = used_box(learnt, raw.shape).intersect(box)
        if learnt.raw == scored.raw and common.n_voxels:
            raise ConfigError(
                f"slices {common.offset[0]} to {common.end[0]} of {scored.raw!r} are in training "
                "and in validation, whose score would say nothing; set `slices` of both apart"
            )


def validate(config: Training, description: Description, network: Unet) -> dict[str, float]:
    """Variation of information (bits) and adapted Rand error on the validation slices.

    Parameters
    ----------
    config : Training
    description : Description
        Of the model.
    network : Unet
        Folded for prediction.

    Returns
    -------
    dict
        ``voi_split``, ``voi_merge`` and ``adapted_rand_error``; truth 0 is ignored.
    """
    raw, labels = open_pair(config.validation, config.voxel_size)
    box = used_box(config.validation, raw.shape)
    device = find_device(config.device)
    predictor = Predictor(description, network, "affinities", device, config.precision)
    tiles = cores(box, box, default_tile(description), config.architecture.stride)
    affinities, _ = predict_tiles(predictor, raw, tiles, box)
    found = score(contingency(labels.read(box), segment_volume(affinities, Segment())))
    return {
        "voi_split": round(found.voi_split, 4),
        "voi_merge": round(found.voi_merge, 4),
        "adapted_rand_error": round(found.adapted_rand_error, 4),
    }
