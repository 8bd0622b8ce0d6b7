"""A model as one program that says probabilities, for others to run.

It takes normalised raw data, (1, 1, z, y, x) of float32: a core of whole strides
with its context. It gives one tensor of probabilities per head, of the core.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from pipeline.geometry import Triple, triple
from tasks.networks.model import Description, find_model, load_network
from tasks.registry import AnyNetwork, AnyTarget


class Program(nn.Module):
    """A network with the probabilities of its heads, in their order."""

    def __init__(self, network: nn.Module, heads: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        self._heads = dict(heads)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Probabilities (1, c, z, y, x) of each head on the core that `x` holds with context."""
        logits = self.network(x)
        return tuple(head.probabilities(logits[name]) for name, head in self._heads.items())


def program(network: dict[str, Any], heads: dict[str, dict[str, Any]]) -> Program:
    """The program of a description's `network` and `heads`, with new weights.

    What bioimage.io's ``pytorch_state_dict`` names as its architecture.
    """
    found = TypeAdapter(AnyNetwork).validate_python(network)
    targets = {name: TypeAdapter(AnyTarget).validate_python(head) for name, head in heads.items()}
    channels = {name: target.channels for name, target in targets.items()}
    return Program(found.build(channels, plain=True), targets).eval()


def load_program(model: str) -> tuple[Description, Program]:
    """The description and the program of a model."""
    description, network = load_network(find_model(model))
    return description, Program(network, description.heads).eval()


def example_core(description: Description) -> Triple:
    """A small core, of at least two voxels on every axis."""
    return triple(max(2, 2 * s) for s in description.network.stride)


def example_input(description: Description) -> Tensor:
    """Noise of the shape that `example_core` needs, the same whenever it is asked for."""
    shape = description.network.input_shape(example_core(description))
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))


def export_program(model: str, path: Path) -> None:
    """Write a model as a ``torch.export`` file, for cores of any two or more strides.

    Parameters
    ----------
    model : str
        A shipped model's name, or a directory.
    path : Path
        Ends in ``.pt2``.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    description, made = load_program(model)
    network = description.network
    shapes: dict[int, Any] = {}
    for axis, (stride, context) in enumerate(zip(network.stride, network.context, strict=True)):
        name = "zyx"[axis]
        if stride == 1:
            shapes[2 + axis] = torch.export.Dim(name, min=2 + 2 * context)
        else:
            strides = torch.export.Dim(name, min=2)
            shapes[2 + axis] = stride * strides + 2 * context
    exported = torch.export.export(made, (example_input(description),), dynamic_shapes=(shapes,))
    partial = path.with_name(f"{path.stem}.partial.pt2")
    torch.export.save(exported, partial)
    partial.replace(path)
