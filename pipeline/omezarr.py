"""OME-Zarr metadata: axes, units, scales and translations of multiscale groups.

Reads versions 0.4 and 0.5 (``multiscales`` in the attributes of a zarr v2 or v3
group) and writes 0.5. Lengths are nanometres on our side of this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import VolumeError
from pipeline.remedies import metadata_errors
from pipeline.store import open_store

VERSION = "0.5"

Kind = Literal["image", "labels"]
Json = dict[str, Any]

_NANOMETRES = {
    "nanometer": 1.0,
    "nm": 1.0,
    "angstrom": 0.1,
    "micrometer": 1e3,
    "micron": 1e3,
    "um": 1e3,
    "µm": 1e3,
    "μm": 1e3,
    "millimeter": 1e6,
    "mm": 1e6,
    "centimeter": 1e7,
    "meter": 1e9,
    "m": 1e9,
}


def nanometres(unit: str | None) -> float | None:
    """Nanometres in one `unit` of length; None if the unit is missing or not a length."""
    return None if unit is None else _NANOMETRES.get(unit.strip().lower().replace("metre", "meter"))


@dataclass(frozen=True)
class Level:
    """One array of a multiscale group.

    Parameters
    ----------
    path : str
        Name of the array inside the group.
    axes : tuple of str
        Names of its axes in storage order.
    scale, translation : tuple of float
        Per axis, nm for axes of space.
    metric : bool
        Whether every axis of space has a unit of length, so that `scale` is in nm.
    """

    path: str
    axes: tuple[str, ...]
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    metric: bool


def levels(attributes: Mapping[str, Any], url: str) -> list[Level]:
    """The levels that the attributes of the group at `url` describe, the finest first.

    An empty list means that the group is not a multiscale image.

    Raises
    ------
    VolumeError
        If they describe one, but not as OME-Zarr 0.4 or 0.5 do.
    """
    with metadata_errors("multiscales", url):
        images = attributes.get("ome", attributes).get("multiscales") or []
        return _levels(images[0]) if images else []


def _levels(image: Mapping[str, Any]) -> list[Level]:
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image["axes"]]
    names = tuple(axis["name"].lower() for axis in axes)
    space = [name in ("z", "y", "x") for name in names]
    units = [
        nanometres(axis.get("unit")) if spatial else 1.0
        for axis, spatial in zip(axes, space, strict=True)
    ]
    outer = _transform(image, len(names))
    found = []
    for dataset in image["datasets"]:
        inner = _transform(dataset, len(names))
        rows = zip(inner[0], inner[1], outer[0], outer[1], units, strict=True)
        both = [(s * t * (u or 1.0), (o * t + p) * (u or 1.0)) for s, o, t, p, u in rows]
        found.append(
            Level(
                dataset["path"].strip("/"),
                names,
                tuple(scale for scale, _ in both),
                tuple(offset for _, offset in both),
                metric=None not in units and "coordinateTransformations" in dataset,
            )
        )
    return found


def _transform(part: Mapping[str, Any], n: int) -> tuple[Sequence[float], Sequence[float]]:
    scale: Sequence[float] = [1.0] * n
    translation: Sequence[float] = [0.0] * n
    for step in part.get("coordinateTransformations") or []:
        if step["type"] == "scale":
            scale = step["scale"]
        elif step["type"] == "translation":
            translation = step["translation"]
    return scale, translation


def add_level(
    url: str,
    *,
    kind: Kind,
    channels: bool,
    scale: tuple[float, float, float],
    translation: tuple[float, float, float],
) -> None:
    """List the array at `url` in the multiscale group around it, once.

    The group, and the group above it (the output), are made if they do not
    exist. Several processes may do this at the same time.

    Raises
    ------
    VolumeError
        If the array is listed with another scale or translation.
    """
    group, name = url.rstrip("/").rsplit("/", 1)
    output = group.rpartition("/")[0]
    entry = {
        "path": name,
        "coordinateTransformations": [
            {"type": "scale", "scale": [1.0] * channels + list(map(float, scale))},
            {
                "type": "translation",
                "translation": [0.0] * channels + list(map(float, translation)),
            },
        ],
    }

    def change(old: bytes | None) -> bytes:
        document = _group() if old is None else json.loads(old)
        ome = document["attributes"].setdefault("ome", {"version": VERSION})
        if kind == "labels":
            ome.setdefault("image-label", {"version": VERSION})
        image = ome.setdefault("multiscales", [_image(group, kind, channels)])[0]
        listed = {dataset["path"]: dataset for dataset in image["datasets"]}
        if listed.setdefault(name, entry) != entry:
            raise VolumeError(
                f"{url} was made with another configuration: its place is "
                f"{listed[name]['coordinateTransformations']}, now asked for is "
                f"{entry['coordinateTransformations']}. Choose another output, or delete {group}."
            )
        image["datasets"] = sorted(listed.values(), key=_coarseness)
        return json.dumps(document, indent=2).encode()

    if output and not output.endswith((":/", ":")):
        open_store(output).update("zarr.json", lambda old: old or json.dumps(_group()).encode())
    open_store(group).update("zarr.json", change)


def remove_level(url: str) -> None:
    """Take the array at `url` out of the multiscale group around it, if it is listed there."""
    group, name = url.rstrip("/").rsplit("/", 1)

    def change(old: bytes | None) -> bytes | None:
        document = json.loads(old or b"{}")
        images = document.get("attributes", {}).get("ome", {}).get("multiscales", [])
        listed = [(image, each) for image in images for each in image["datasets"]]
        found = [(image, each) for image, each in listed if each["path"] == name]
        for image, each in found:
            image["datasets"].remove(each)
        return json.dumps(document, indent=2).encode() if found else None

    open_store(group).update("zarr.json", change)


def _group() -> Json:
    return {"zarr_format": 3, "node_type": "group", "attributes": {}}


def _image(group: str, kind: Kind, channels: bool) -> Json:
    axes: list[Json] = [{"name": "c", "type": "channel"}] if channels else []
    axes += [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    image: Json = {"name": group.rpartition("/")[2], "axes": axes, "datasets": []}
    if kind == "labels":
        image |= {"type": "mode", "metadata": {"description": "downsampled by the mode of labels"}}
    return image


def _coarseness(dataset: Json) -> list[float]:
    scale: list[float] = dataset["coordinateTransformations"][0]["scale"]
    return scale
