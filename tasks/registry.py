"""The registry of parts: what is installed, by kind and name.

Parts come in through the entry-point groups ``raphe.networks``,
``raphe.targets``, ``raphe.losses`` and ``raphe.augmentations``, each entry a
class of `tasks.parts`; so a package of one's own adds to them without a change
here. Import `AnyNetwork` and its like where a field holds any part of a kind.
"""

from __future__ import annotations

import functools
import inspect
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args

from pydantic import Field

from pipeline.errors import ConfigError
from tasks.parts import Augmentation, Loss, Network, Part, Target

_BASES: dict[str, type[Part]] = {
    "networks": Network,
    "targets": Target,
    "losses": Loss,
    "augmentations": Augmentation,
}

KINDS = tuple(_BASES)
"""The kinds of parts."""


@functools.cache
def parts(kind: str) -> dict[str, type[Any]]:
    """All parts of a kind, by name: those of Raphe and those of other installed packages.

    Raises
    ------
    ConfigError
        If a package offers a part that cannot be imported or is none, or two the same name.
    """
    found: dict[str, type[Any]] = {}
    for entry in sorted(entry_points(group=f"raphe.{kind}"), key=lambda entry: entry.name):
        if entry.name in found:
            raise ConfigError(
                f"two packages offer {kind} named {entry.name!r}: {found[entry.name].__module__} "
                f"and {entry.value}. Uninstall one of them."
            )
        try:
            part = entry.load()
        except Exception as error:
            raise ConfigError(
                f"{kind} {entry.name!r} ({entry.value}) cannot be imported: {error}. Repair or "
                "uninstall the package that offers it."
            ) from error
        if wrong := _what_is_wrong(part, kind, entry.name):
            raise ConfigError(
                f"{kind} {entry.name!r} ({entry.value}) {wrong}. Repair or uninstall the package "
                "that offers it."
            )
        found[entry.name] = part
    return found


def _what_is_wrong(part: Any, kind: str, name: str) -> str | None:
    """Why an object cannot be used as a part, so that it does not fail where it is used."""
    base = _BASES[kind]
    if not (isinstance(part, type) and issubclass(part, base)):
        return f"is not a class of tasks.parts.{base.__name__}"
    if inspect.isabstract(part):
        return f"does not define {', '.join(sorted(part.__abstractmethods__))}"
    if get_args(part.model_fields["kind"].annotation) != (name,):
        return f"needs a field, kind: Literal[{name!r}], by which it is chosen"
    return None


def _one_of(kind: str) -> Any:
    """The type of a field that holds any part of a kind, chosen by its `kind`."""
    classes = tuple(parts(kind).values())
    if len(classes) == 1:
        return classes[0]
    return Annotated[Union[classes], Field(discriminator="kind")]  # noqa: UP007


if TYPE_CHECKING:
    AnyNetwork = Network
    AnyTarget = Target
    AnyLoss = Loss
    AnyAugmentation = Augmentation
else:
    AnyNetwork = _one_of("networks")
    AnyTarget = _one_of("targets")
    AnyLoss = _one_of("losses")
    AnyAugmentation = _one_of("augmentations")
