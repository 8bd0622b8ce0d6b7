"""How predictions are made of models: turned tiles, ensembles, blending, compilation.

A `Regime` is made of plain values, so that it can be written into a step's
parameters, and says what it needs of tiles without reading weights.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config import Predict
from pipeline.errors import ModelError
from tasks.networks.augmented import Augmented, Which, augmented_needs, symmetries
from tasks.networks.ensemble import Combination, Ensemble, check_members, joined_needs
from tasks.networks.model import Description, find_model, load_network, weights_hash
from tasks.networks.predictor import Precision, Predictor, find_device, network_needs
from tasks.networks.tile import Needs, TilePredictor


@dataclass(frozen=True)
class Regime:
    """Everything that a process must know to predict one head.

    Attributes
    ----------
    models, weights : tuple of str
        Names or directories, and the hashes of their weights.
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
        return cls(
            tuple(models),
            tuple(weights_hash(find_model(model)) for model in models),
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


@functools.lru_cache(maxsize=2)
def load(regime: Regime) -> TilePredictor:
    """The predictor of a regime, loaded once per process.

    Raises
    ------
    ModelError
        If the weights of a model are not those whose hash is known.
    """
    found = [
        _member(regime, model, weights)
        for model, weights in zip(regime.models, regime.weights, strict=True)
    ]
    return found[0] if len(found) == 1 else Ensemble(found, regime.ensemble)


def _member(regime: Regime, model: str, weights: str) -> TilePredictor:
    folder = find_model(model)
    found = weights_hash(folder)
    if found != weights:
        raise ModelError(
            f"the weights in {folder} have the hash {found[:12]}…, but the run was begun with "
            f"{weights[:12]}…. Run again if the model was replaced on purpose; otherwise install "
            "the same model wherever workers run."
        )
    description, network = load_network(folder)
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
