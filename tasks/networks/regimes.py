"""How predictions are made of models: turned tiles, ensembles, blending, compilation.

A `Regime` is made of plain values, so that it can be written into a step's
parameters, and says what it needs of tiles without reading weights.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config import Predict
from pipeline.errors import ModelError
from tasks.networks.augmented import Augmented, Which, augmented_needs, symmetries
from tasks.networks.ensemble import Combination, Ensemble, check_members, joined_needs
from tasks.networks.model import (
    DESCRIPTION,
    Description,
    find_model,
    load_network,
    read_description,
    weights_hash,
)
from tasks.networks.predictor import Precision, Predictor, find_device, network_needs
from tasks.networks.tile import Needs, TilePredictor


@dataclass(frozen=True)
class Regime:
    """Everything that a process must know to predict one head.

    Attributes
    ----------
    models, weights, descriptions : tuple of str
        Names or directories, the hashes of their weights, and what `essence` says of them.
    head : str
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    precision : {"bfloat16", "float32"}
    tta : {"none", "flips", "all"}
    ensemble : {"mean", "median", "max"}
    cropped : bool
        Whether predictions near a tile's border are cut off, not blended.
    compiled : bool
    """

    models: tuple[str, ...]
    weights: tuple[str, ...]
    descriptions: tuple[str, ...]
    head: str
    device: str
    precision: Precision
    tta: Which
    ensemble: Combination
    cropped: bool
    compiled: bool

    @classmethod
    def of(cls, models: list[str], settings: Predict) -> Regime:
        """The regime of a configuration.

        Raises
        ------
        ModelError
            If a model does not exist.
        """
        folders = [find_model(model) for model in models]
        return cls(
            tuple(models),
            tuple(weights_hash(folder) for folder in folders),
            tuple(essence(read_description(folder)) for folder in folders),
            settings.output,
            settings.device,
            settings.precision,
            settings.tta,
            settings.ensemble,
            settings.blend is None,
            settings.compile,
        )

    def needs(self, descriptions: Mapping[str, Description]) -> Needs:
        """What is needed of tiles, from the models' descriptions by name.

        Raises
        ------
        ModelError
            If a model has no such head, or the models do not go together.
        """
        check_members(dict(descriptions), self.head)
        found = []
        for description in descriptions.values():
            inner = network_needs(description.network, cropped=self.cropped)
            head = description.head(self.head)
            group = symmetries(self.tta, description.voxel_size, head)
            found.append(augmented_needs(inner, head, group))
        return joined_needs(found)


def essence(description: Description) -> str:
    """What a prediction depends on of a model besides its weights, as JSON."""
    fields = {"network", "heads", "voxel_size", "normalisation"}
    return json.dumps(description.model_dump(mode="json", include=fields), sort_keys=True)


@functools.lru_cache(maxsize=2)
def load(regime: Regime) -> TilePredictor:
    """The predictor of a regime, loaded once per process.

    Raises
    ------
    ModelError
        If the weights or the description of a model are not those that the regime knows.
    """
    members = zip(regime.models, regime.weights, regime.descriptions, strict=True)
    found = [_member(regime, *member) for member in members]
    return found[0] if len(found) == 1 else Ensemble(found, regime.ensemble)


def _member(regime: Regime, model: str, weights: str, described: str) -> TilePredictor:
    folder = find_model(model)
    found = weights_hash(folder)
    if found != weights:
        raise ModelError(
            f"the weights in {folder} have the hash {found[:12]}…, but the run was begun with "
            f"{weights[:12]}…. Run again if the model was replaced on purpose; otherwise install "
            "the same model wherever workers run."
        )
    description, network = load_network(folder)
    if essence(description) != described:
        raise ModelError(
            f"{folder / DESCRIPTION} says something else than when the run was begun. Run again if "
            "it was changed on purpose; otherwise install the same model wherever workers run."
        )
    inner = Predictor(
        description,
        network,
        regime.head,
        find_device(regime.device),
        regime.precision,
        compiled=regime.compiled,
        cropped=regime.cropped,
    )
    return turned(inner, regime.tta)


def turned(inner: Predictor, which: Which) -> TilePredictor:
    """A predictor with test-time augmentation."""
    group = symmetries(which, inner.description.voxel_size, inner.head)
    return inner if len(group) == 1 else Augmented(inner, group)
