"""The U-Net of a `UnetArchitecture`, with one 1×1×1 convolution per head.

Nothing that it says of a core looks at more than the core's context: there is no
pooling over the whole tile and no normalisation by the tile's statistics.
Training stays well conditioned by standardised weights (Brock, De and Smith
2021, "Characterizing signal propagation to close the performance gap in
unnormalized ResNets") or by batch normalisation; `folded` turns both into the
plain convolutions of prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.geometry import Triple
from tasks.networks.layers import Chain, Side, StandardisedConv3d, centre, crop, fold

if TYPE_CHECKING:
    from tasks.networks.architecture import UnetArchitecture


class Unet(nn.Module):
    """From raw (n, 1, z, y, x) to one tensor of logits per head.

    Parameters
    ----------
    architecture : UnetArchitecture
        Levels, kernels and factors, and how they are put together.
    heads : mapping of str to int
        Channels of each head.
    plain : bool
        True for the folded network of prediction, false for training.
    """

    def __init__(
        self, architecture: UnetArchitecture, heads: Mapping[str, int], *, plain: bool
    ) -> None:
        super().__init__()
        self.architecture = architecture
        levels, bottom = architecture.levels, architecture.bottom
        channels = [level.channels for level in levels] + [bottom.channels]
        self.sides = nn.ModuleList(
            Side(index, inputs, deeper, architecture, plain)
            for index, (inputs, deeper) in enumerate(
                zip([1, *channels], channels[1:], strict=False)
            )
        )
        self.bottom = Chain(channels[-2], channels[-1], bottom.kernels, architecture, plain)
        self.heads = _heads(channels[0], heads)
        deep = 0 if plain else architecture.deep_heads
        self.deeper = nn.ModuleList(_heads(size, heads) for size in channels[1 : 1 + deep])
        self.crop: Triple = (0, 0, 0) if architecture.padding == "valid" else architecture.context

    def features(self, x: Tensor) -> Tensor:
        """The last features (n, c, z, y, x) of the core that `x` holds with its context."""
        return self._finest(x)

    def deep(self, x: Tensor) -> list[dict[str, Tensor]]:
        """Logits of every head on the core, finest first, then those of deeper levels."""
        levels: list[Tensor] = []
        finest = self._finest(x, levels)
        features = [finest, *reversed(levels)]
        found = [{name: head(features[0]) for name, head in self.heads.items()}]
        scale = [1.0, 1.0, 1.0]
        for side, heads, level in zip(self.sides, self.deeper, features[1:], strict=False):
            scale = [s * f for s, f in zip(scale, cast(Side, side).factor, strict=True)]
            logits = {name: head(level) for name, head in cast(nn.ModuleDict, heads).items()}
            # In the middle, since all margins are the same before and after.
            found.append(
                {
                    name: centre(functional.interpolate(value, scale_factor=scale), features[0])
                    for name, value in logits.items()
                }
            )
        return found

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of every head."""
        features = self.features(x)
        return {name: head(features) for name, head in self.heads.items()}

    def _finest(self, x: Tensor, levels: list[Tensor] | None = None) -> Tensor:
        """The last features of the core; `levels` gets those of the others, coarsest first."""
        sides = [cast(Side, side) for side in self.sides]
        skips = []
        for side in sides:
            x = self._run(side.down, x)
            skips.append(x)
            x = functional.max_pool3d(x, side.factor)
        x = self._run(self.bottom, x)
        for side in reversed(sides):
            if levels is not None:
                levels.append(x)
            x = self._run(side.join, skips.pop(), x)
        return crop(x, self.crop)

    def _run(self, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.architecture.checkpointing and self.training and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(part, *inputs, use_reentrant=False))
        return part(*inputs)


def folded(trained: nn.Module) -> dict[str, Tensor]:
    """Weights for the plain network that computes what `trained` does in evaluation, float32."""
    found = trained.state_dict()
    for name in list(found):
        if name.endswith(".gain") or ".norms." in name or name.startswith("deeper."):
            del found[name]
    for name, module in trained.named_modules():
        if isinstance(module, StandardisedConv3d):
            found[f"{name}.weight"] = module.standardised()
        if isinstance(module, Chain):
            for index, (conv, norm) in enumerate(zip(module.convs, module.norms, strict=True)):
                if isinstance(norm, nn.BatchNorm3d):
                    weight, bias = fold(cast(nn.Conv3d, conv), norm)
                    found[f"{name}.convs.{index}.weight"] = weight
                    found[f"{name}.convs.{index}.bias"] = bias
    return {name: tensor.detach().float().contiguous() for name, tensor in found.items()}


def _heads(channels: int, heads: Mapping[str, int]) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Conv3d(channels, count, 1) for name, count in heads.items()})
