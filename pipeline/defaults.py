"""Defaults that follow from other parts of a configuration, such as those that a model carries.

They come in through the entry-point group ``raphe.defaults``: each entry is a
function ``defaults(config)`` that returns values of fields by section. What the
user wrote is never replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from pipeline.config import Config

GROUP = "raphe.defaults"

Defaults = Callable[[Config], Mapping[str, Mapping[str, Any]]]


def with_defaults(config: Config) -> Config:
    """The configuration with the defaults of all installed packages where it says nothing.

    Parameters
    ----------
    config : Config
        As the user wrote it.

    Returns
    -------
    Config
        With every such field set, so that doing it again changes nothing.
    """
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        defaults: Defaults = entry.load()
        for name, values in defaults(config).items():
            section = getattr(config, name)
            written = {field: getattr(section, field) for field in section.model_fields_set}
            merged = type(section).model_validate({**values, **written})
            config = config.model_copy(update={name: merged})
    return config
