"""What a model says of its own use: entry `model` of ``raphe.defaults``."""

from __future__ import annotations

from typing import Any

from pipeline.config import Config, Predict
from tasks.networks.model import find_model, read_description


def of_model(config: Config) -> dict[str, dict[str, Any]]:
    """The model's defaults for `predict` and `segment`; of an ensemble, those of its first member.

    Those for `segment` were found on one head: a run that segments another does not get them.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    if not config.model:
        return {}
    first = config.model if isinstance(config.model, str) else config.model[0]
    found = read_description(find_model(first)).defaults
    scored = found.predict.get("output", Predict().output)
    if "output" in config.predict.model_fields_set and config.predict.output != scored:
        return {"predict": found.predict}
    return found.model_dump()
