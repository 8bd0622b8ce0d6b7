"""The command `raphe models`."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command(
    short_help="List the parts of models, and the models that ship.",
    epilog="Example: raphe models --json",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def models(*, as_json: bool) -> None:
    """List what models are made of and trained with, and the models that ship with Raphe.

    Networks, targets, losses and augmentations are chosen in a training's
    configuration by these names, their `kind`; those of other installed
    packages say whose they are. A model's name may be `model:` of a run's
    configuration, or `init:` of a training's.
    """
    # Imported here, since torch takes seconds and `raphe --help` shows this command, too.
    found = {**listed_parts(), "models": shipped_models()}
    click.echo(json.dumps(found) if as_json else describe(found))


def listed_parts() -> dict[str, list[dict[str, str]]]:
    """Name, summary and package of the parts of every kind."""
    from tasks.registry import KINDS, parts

    return {
        kind: [
            {"name": name, "summary": summary(part), "package": part.__module__.split(".")[0]}
            for name, part in parts(kind).items()
        ]
        for kind in KINDS
    }


def shipped_models() -> list[dict[str, str]]:
    """Name and summary of the models that come with Raphe."""
    from tasks.networks.model import DESCRIPTION, SHIPPED, read_description

    found = []
    for path in sorted(SHIPPED.glob(f"*/{DESCRIPTION}")):
        description = read_description(path.parent)
        size = " × ".join(f"{each:g}" for each in description.voxel_size)
        text = f"{description.network.kind}, {size} nm, {description.dtype}: "
        found.append({"name": path.parent.name, "summary": text + ", ".join(description.heads)})
    return found


def summary(part: type[Any]) -> str:
    """The first line of what a part says of itself."""
    return (part.__doc__ or "no description").strip().splitlines()[0]


def describe(found: dict[str, list[dict[str, str]]]) -> str:
    """The lists as lines for people."""
    width = max(len(each["name"]) for group in found.values() for each in group) + 2
    lines: list[str] = []
    for kind, group in found.items():
        lines += ["", kind] if lines else [kind]
        for each in group:
            package = each.get("package", "tasks")
            origin = "" if package == "tasks" else f" (from {package})"
            lines.append(f"  {each['name']:<{width}}{each['summary']}{origin}")
    return "\n".join(lines)
