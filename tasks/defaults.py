"""What a model says of its own use: entry `model` of ``raphe.defaults``."""

from __future__ import annotations

from typing import Any

from pipeline.config import Config
from tasks.networks.model import find_model, read_description


def of_model(config: Config) -> dict[str, dict[str, Any]]:
    """The model's defaults for `predict` and `segment`; of an ensemble, those of its first member.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    if not config.model:
        return {}
    first = config.model if isinstance(config.model, str) else config.model[0]
    return read_description(find_model(first)).defaults.model_dump()
