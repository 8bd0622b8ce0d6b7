"""Begin with the weights of a model, and keep some of them as they are.

A model directory holds plain convolutions. Where the training network has
standardised ones, their weights and gains are set so that the kernels that are
applied are those of the model: fine-tuning begins with the model's function,
not with something near it.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from tasks.networks.layers import StandardisedConv3d
from tasks.networks.model import find_model, load_network

_CENTRED = 1e-3
"""Mean of a kernel, relative to its deviation, that standardised weights may lose unnoticed:
what rounding to float16 leaves."""


@dataclass(frozen=True)
class Loaded:
    """What became of the weights of a model.

    Attributes
    ----------
    taken : list of str
        Weights of the new network that the model had.
    new : list of str
        Weights of the new network that the model has not, or of another shape.
    unused : list of str
        Weights of the model that the new network has not, or of another shape.
    """

    model: str
    taken: list[str]
    new: list[str]
    unused: list[str]

    def describe(self) -> str:
        """What to tell the user."""
        lines = [f"{len(self.taken)} weights are those of {self.model}"]
        if self.new:
            lines.append(f"not in it, so learnt anew: {', '.join(self.new)}")
        if self.unused:
            lines.append(f"of it and not used: {', '.join(self.unused)}")
        return "; ".join(lines)


def load_initial(network: nn.Module, model: str) -> Loaded:
    """Set the weights of a network of training to those of a model, where names and shapes match.

    Parameters
    ----------
    network : Module
        Of training; changed in place.
    model : str
        A shipped model's name, or a model directory.

    Raises
    ------
    ModelError
        If there is no such model, or it is damaged.
    ConfigError
        If no weight matches.
    """
    found = load_network(find_model(model))[1].state_dict()
    own = network.state_dict()
    matching = {
        name for name, tensor in found.items() if name in own and own[name].shape == tensor.shape
    }
    taken = {name: found[name] for name in matching}
    for name, module in network.named_modules():
        if isinstance(module, StandardisedConv3d) and f"{name}.weight" in matching:
            weight, gain = standardisable(name, module, taken[f"{name}.weight"])
            taken |= {f"{name}.weight": weight, f"{name}.gain": gain}
    if not taken:
        raise ConfigError(
            f"init: no weight of {model!r} has the name and shape of one of the network; "
            "give the network the levels, channels and kernels that the model has"
        )
    network.load_state_dict(taken, strict=False)
    new, unused = own.keys() - taken.keys(), found.keys() - matching
    return Loaded(model, sorted(taken), sorted(new), sorted(unused))


@torch.no_grad()
def standardisable(name: str, module: StandardisedConv3d, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and gain with which `module` applies `kernels`.

    Raises
    ------
    ConfigError
        If the mean of a kernel is not 0, which no standardised convolution can have.
    """
    axes = (1, 2, 3, 4)
    mean = kernels.mean(axes, keepdim=True)
    deviation = kernels.std(axes, keepdim=True, unbiased=False)
    dead = deviation == 0
    off = float((mean.abs() / deviation.masked_fill(dead, 1)).max())
    if off > _CENTRED:
        raise ConfigError(
            f"init: kernels of {name} have means of up to {off:.2g} standard deviations, which a "
            "network with standardised weights cannot have; give the network the "
            "normalisation that the model was trained with"
        )
    # A kernel that is 0 keeps the weights that it has, with a gain of 0.
    weight = torch.where(dead, module.weight, (kernels - mean) / deviation.masked_fill(dead, 1))
    unit = copy.deepcopy(module)
    unit.weight.copy_(weight)
    unit.gain.fill_(1)
    return weight, deviation / unit.standardised().std(axes, keepdim=True, unbiased=False)


def freeze(network: nn.Module, patterns: Iterable[str]) -> None:
    """Exclude the parameters that match a pattern from training.

    Raises
    ------
    ConfigError
        If a pattern matches no parameter, or nothing is left to train.
    """
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        matching = fnmatch.filter(parameters, pattern)
        if not matching:
            parts = sorted({".".join(name.split(".")[:2]) for name in parameters})
            raise ConfigError(
                f"freeze: {pattern!r} matches no parameter; names begin with "
                f"{', '.join(parts)}, so that {parts[0]}.* matches"
            )
        for name in matching:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError("freeze leaves no parameter to train; remove a pattern")


def set_training(network: nn.Module) -> None:
    """Let a network learn; modules that are frozen as a whole keep their statistics, too."""
    network.train()
    for module in network.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
