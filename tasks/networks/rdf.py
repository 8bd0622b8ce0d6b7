"""What a bioimage.io package says of a model: ``rdf.yaml`` and the model card."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch

from tasks.networks.export import example_core
from tasks.networks.model import DESCRIPTION, Description
from tasks.parts import Target

ATTACHED = f"raphe-{DESCRIPTION}"
STATE = "weights.pt"
SCRIPT = "weights-torchscript.pt"
CARD = "README.md"
RDF = "rdf.yaml"

_FORMAT = "0.5.3"
"""Of ``rdf.yaml``: old enough for most programs that read packages."""


def describe(name: str, description: Description, folder: Path) -> dict[str, Any]:
    """The content of ``rdf.yaml`` of a package with the files in `folder`."""

    def file(member: str) -> dict[str, str]:
        return {
            "source": member,
            "sha256": hashlib.sha256((folder / member).read_bytes()).hexdigest(),
        }

    network = description.network
    n_voxels = example_core(description)
    sizes = zip("zyx", network.stride, network.context, n_voxels, strict=True)
    scales = dict(zip("zyx", description.voxel_size, strict=True))
    inner: list[dict[str, Any]] = [{"type": "batch", "size": 1}]
    axes_in = [*inner, {"type": "channel", "channel_names": ["raw"]}]
    axes_out: list[dict[str, Any]] = []
    for axis, stride, context, least in sizes:
        common = {"type": "space", "id": axis, "unit": "nanometer", "scale": scales[axis]}
        axes_in.append({**common, "size": {"min": least + 2 * context, "step": stride}})
        reference = {"tensor_id": "raw", "axis_id": axis, "offset": -2 * context}
        axes_out.append({**common, "size": reference})
    scaling = {"mean": description.normalisation.mean, "std": description.normalisation.std}
    outputs = [
        {
            "id": head,
            "axes": [*inner, {"type": "channel", "channel_names": _channels(target)}, *axes_out],
            "test_tensor": file(f"{head}.npy"),
        }
        for head, target in description.heads.items()
    ]
    state = {
        **file(STATE),
        "pytorch_version": torch.__version__.split("+")[0],
        "architecture": {
            "import_from": "tasks.networks.export",
            "callable": "program",
            "kwargs": description.model_dump(mode="json", include={"network", "heads"}),
        },
    }
    script = {
        **file(SCRIPT),
        "pytorch_version": torch.__version__.split("+")[0],
        "parent": "pytorch_state_dict",
    }
    return {
        "type": "model",
        "format_version": _FORMAT,
        "name": presentable(name),
        "description": f"{', '.join(description.heads)} in electron microscopy",
        "documentation": file(CARD),
        "attachments": [file(ATTACHED)],
        "inputs": [
            {
                "id": "raw",
                "axes": axes_in,
                "test_tensor": file("input.npy"),
                "preprocessing": [{"id": "fixed_zero_mean_unit_variance", "kwargs": scaling}],
            }
        ],
        "outputs": outputs,
        "weights": {"pytorch_state_dict": state, "torchscript": script},
        "tags": ["electron-microscopy", "segmentation", "3d", "pytorch"],
    }


def presentable(name: str) -> str:
    """A name as bioimage.io takes it: 5 to 128 letters, digits and a few signs.

    Examples
    --------
    >>> presentable("one"), presentable("fib25 v1.2")
    ('model one', 'fib25 v1-2')
    """
    plain = re.sub(r"[^A-Za-z0-9_+() -]", "-", name)[:128]
    return plain if len(plain) >= 5 else f"model {plain}"


def _channels(head: Target) -> list[str]:
    offsets = head.attributes().get("offsets")
    if offsets is None:
        return [f"{head.kind}{index}" for index in range(head.channels)]
    return [f"{head.kind} {z} {y} {x}" for z, y, x in offsets]


def card(name: str, description: Description) -> str:
    """The model card as Markdown."""
    parts = [f"# {name}", "Made by Raphe.", f"Terms: {description.licence or 'not stated'}"]
    if description.credit:
        parts.append(f"Credit: {description.credit}")
    return "\n\n".join(parts) + "\n"
