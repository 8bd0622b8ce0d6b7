"""The score of a network on slices that it never learnt from.

What is scored is what a run would make of them: predicted affinities, the exact
decoder, variation of information against the labels, for every threshold and
absorb size of the configuration. Unlike a loss, it says whether objects come
out whole; and the best setting is what the model is shipped with.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import nn

from pipeline.config import Segment
from pipeline.errors import ConfigError
from pipeline.geometry import Box
from pipeline.volumes import Volume
from tasks.affinities import affinities_of
from tasks.core import segment_volume, sweep
from tasks.evaluate.contingency import Contingency, contingency, merge
from tasks.evaluate.scores import score
from tasks.networks.model import Description
from tasks.networks.predictor import Predictor, find_device
from tasks.networks.regimes import turned
from tasks.networks.tile import TilePredictor
from tasks.parts import VoxelSize
from tasks.predict import default_tile, predict_tiles
from tasks.tiles import cores
from tasks.train.config import Training
from tasks.train.data import Truth, check_ids, open_mask, open_pair, used_box
from tasks.train.picture import draw_validation

Array = npt.NDArray[Any]
Scores = dict[str, float]


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes
    ----------
    best : dict
        ``threshold``, ``absorb_size``, ``voi_split`` and ``voi_merge`` (bits) and
        ``adapted_rand_error`` of the best setting; truth 0 is ignored.
    settings : list of dict
        The same of every setting.
    picture : bytes
        PNG of the first volume, segmented with the best setting.
    """

    best: Scores
    settings: list[Scores]
    picture: bytes


def check_validation(config: Training, description: Description) -> None:
    """Refuse what could not be scored, before hours are spent on learning.

    Raises
    ------
    ConfigError
        If nothing is labelled, an id is negative, or some of it is learnt from.
    ModelError
        If the raw data are of another dtype than those that are learnt from.
    """
    # By what is opened: one volume may be written in several ways.
    learning = [(each, open_pair(each, config.voxel_size)[0].url) for each in config.training]
    for scored in config.validation:
        raw, labels = open_pair(scored, config.voxel_size)
        description.check_data(raw.voxel_size, raw.dtype)
        box = used_box(scored, raw.shape)
        known = read_truth(scored, raw, labels, config.voxel_size)
        check_ids(scored, known)
        if not known.any():
            raise ConfigError(
                f"validation: {scored.labels!r} is 0 in all slices that are used, so nothing can "
                "be scored; choose other slices"
            )
        for learnt, url in learning:
            if url != raw.url:
                continue
            common = used_box(learnt, raw.shape).intersect(box)
            if common.n_voxels:
                raise ConfigError(
                    f"slices {common.offset[0]} to {common.end[0]} of {scored.raw!r} are in "
                    "training and in validation, whose score would say nothing; set `slices` of "
                    "both apart"
                )


def read_truth(scored: Truth, raw: Volume, labels: Volume, voxel_size: VoxelSize) -> Array:
    """Labels of what is used, (z, y, x); 0 where the mask or background is."""
    box = used_box(scored, raw.shape)
    found = labels.read(box)
    found = np.where(np.isin(found, scored.background), 0, found)
    mask = open_mask(scored, raw, voxel_size)
    return found if mask is None else np.where(mask.read(box) == 0, 0, found)


def validate(config: Training, description: Description, network: nn.Module) -> Validation:
    """Variation of information and adapted Rand error on the validation volumes.

    Parameters
    ----------
    config : Training
    description : Description
        Of the model.
    network : Module
        Folded for prediction.
    """
    name = config.scored_head()
    plain = Predictor(description, network, name, find_device(config.device), config.precision)
    predictor = turned(plain, config.validate_.tta)
    tables: dict[tuple[float, int], list[Contingency]] = {}
    shown: _Scored | None = None
    for index, truth in enumerate(config.validation):
        scored = _predict(config, description, predictor, truth)
        shown = shown or scored
        for setting, found in _sweep(config, scored.affinities):
            table = contingency(scored.truth, found)
            tables.setdefault(setting, []).append(_numbered(table, index))
    settings = [
        {"threshold": threshold, "absorb_size": size} | _scores(merge(parts))
        for (threshold, size), parts in tables.items()
    ]
    best = best_setting(settings)
    return Validation(best, settings, _picture(config, cast(_Scored, shown), best))


@dataclass(frozen=True)
class _Scored:
    """A box of a volume with what is predicted of it."""

    raw: Volume
    box: Box
    affinities: Array
    truth: Array


def _predict(
    config: Training, description: Description, predictor: TilePredictor, truth: Truth
) -> _Scored:
    raw, labels = open_pair(truth, config.voxel_size)
    box = used_box(truth, raw.shape)
    stride = predictor.needs.stride
    tiles = cores(box, box, default_tile(description, stride), stride)
    values, _ = predict_tiles(predictor, raw, tiles, box)
    known = read_truth(truth, raw, labels, config.voxel_size)
    return _Scored(raw, box, affinities_of(values, predictor.head.decoding), known)


def _picture(config: Training, shown: _Scored, best: Scores) -> bytes:
    segment = _segment(config, best["threshold"], best["absorb_size"])
    labels = segment_volume(shown.affinities, segment)
    return draw_validation(shown.raw, shown.box, shown.affinities, labels, shown.truth, best)


def best_setting(settings: list[Scores]) -> Scores:
    """The setting of least variation of information; the middle one of those that are equal."""
    least = min(voi(found) for found in settings)
    # Thresholds first, so that the middle is that of a plateau of thresholds.
    equal = sorted(
        (found for found in settings if voi(found) <= least),
        key=lambda found: (found["absorb_size"], found["threshold"]),
    )
    return equal[(len(equal) - 1) // 2]


def _sweep(config: Training, affinities: Array) -> Iterator[tuple[tuple[float, int], Array]]:
    """Labels for every setting."""
    wanted = config.validate_
    settings = list(itertools.product(wanted.thresholds, wanted.absorb_sizes))
    found = sweep(affinities, (_segment(config, *setting) for setting in settings))
    yield from zip(settings, found, strict=True)


def _segment(config: Training, threshold: float, size: float) -> Segment:
    changes = {"threshold": threshold, "absorb_size": int(size)}
    return config.validate_.segment.model_copy(update=changes)


def _numbered(table: Contingency, volume: int) -> Contingency:
    """The table with ids that no other volume has."""
    high = np.uint64(volume) << np.uint64(32)
    truth = np.unique(table.truth, return_inverse=True)[1].astype(np.uint64) | high
    label = np.unique(table.label, return_inverse=True)[1].astype(np.uint64) | high
    return dataclasses.replace(table, truth=truth, label=label)


def _scores(table: Contingency) -> Scores:
    found = score(table)
    return {
        "voi_split": round(found.voi_split, 4),
        "voi_merge": round(found.voi_merge, 4),
        "adapted_rand_error": round(found.adapted_rand_error, 4),
    }


def voi(found: Scores) -> float:
    """Variation of information, split and merge, in bits."""
    return round(found["voi_split"] + found["voi_merge"], 4)
