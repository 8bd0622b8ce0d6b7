"""One network at work on tiles: normalisation, arithmetic, quantisation, device."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.geometry import triple
from tasks.networks.model import Description
from tasks.networks.tile import LEVELS, SLAB, Needs, TilePredictor
from tasks.parts import Module, Network

Precision = Literal["bfloat16", "float32"]


def find_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    ConfigError
        If ``cuda`` is asked for, and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            "device is cuda, but torch finds no CUDA on this machine; set device: auto or cpu, or "
            "install a torch that is built for its GPU"
        )
    if name == "auto":
        name = "cuda" if available else "cpu"
    return torch.device(name)


def network_needs(network: Network, *, cropped: bool = True) -> Needs:
    """What a network needs; one that pads can do without context if nothing is cropped."""
    context = (0, 0, 0) if network.padded and not cropped else network.context
    return Needs(network.stride, context)


class Predictor(TilePredictor):
    """One head of a model, ready to predict.

    Parameters
    ----------
    description : Description
        Of the model.
    network : Module
        Of prediction; it is moved to `device`.
    head : str
        Name of the head.
    device : torch.device
        Where the network runs.
    precision : {"bfloat16", "float32"}
        Arithmetic of the convolutions; the head's own is always float32.
    compiled : bool
        Whether torch compiles the network for the shape of the tiles.
    cropped : bool
        False keeps what a network that pads says near the tile's border.
    """

    def __init__(
        self,
        description: Description,
        network: nn.Module,
        head: str,
        device: torch.device,
        precision: Precision,
        *,
        compiled: bool = False,
        cropped: bool = True,
    ) -> None:
        self.description = description
        self.head = description.head(head)
        self.device = device
        self.needs = network_needs(description.network, cropped=cropped)
        self.count = 1
        self.dtype = getattr(torch, precision)
        module = cast(Module, network)
        last = dict(module.heads[head].named_parameters())
        self._last = last["weight"].detach()[..., 0, 0, 0].to(device, torch.float32, copy=True)
        self._bias = last["bias"].detach().to(device, torch.float32, copy=True)
        network.to(device, self.dtype)
        for part in network.modules():
            # Statistics of 8 bits of mantissa would shift whole feature maps.
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.float()
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if description.network.padded and not cropped:
            module.crop = (0, 0, 0)
        self._features = module.features
        if compiled:
            self._features = torch.compile(module.features)

    def quantised(self, raw: Tensor) -> Tensor:
        """Raw (z, y, x) to uint8 (c, z, y, x), on the network's device."""
        return self._by_slabs(raw, torch.uint8)

    def levels(self, raw: Tensor) -> Tensor:
        """Raw (z, y, x) to probabilities in units of 1/65535, int32 (c, z, y, x)."""
        return self._by_slabs(raw, torch.int32)

    def _by_slabs(self, raw: Tensor, dtype: torch.dtype) -> Tensor:
        features = self._features(self._normalised(raw))[0]
        shape = (self.head.channels, *triple(features.shape[1:]))
        values = torch.empty(shape, dtype=dtype, device=self.device)
        for z in range(0, shape[1], SLAB):
            logits = self._logits(features[:, z : z + SLAB])
            if dtype == torch.uint8:
                values[:, z : z + SLAB] = self.head.quantise(logits)
            else:
                values[:, z : z + SLAB] = self.head.probabilities(logits).mul(LEVELS).round_()
        return values

    def _normalised(self, raw: Tensor) -> Tensor:
        scaling = self.description.normalisation
        # In place: new memory costs the kernel more than the arithmetic costs.
        normalised = raw.to(torch.float32, copy=True).sub_(scaling.mean).div_(scaling.std)
        return normalised.to(self.dtype)[None, None].contiguous(
            memory_format=torch.channels_last_3d
        )

    def _logits(self, features: Tensor) -> Tensor:
        # Logits of 8 bits of mantissa would waste half of uint8's levels; and a matrix
        # product is ten times faster here than a 1×1×1 convolution in float32.
        channels_last = features.movedim(0, -1).float()
        return functional.linear(channels_last, self._last, self._bias).movedim(-1, 0)
