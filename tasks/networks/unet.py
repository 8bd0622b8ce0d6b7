"""The U-Net of a `UnetArchitecture`, with one 1×1×1 convolution per head.

Nothing in it looks at more than its context: there is no padding, no pooling
over the whole tile and no normalisation by the tile's statistics. Training
stays well conditioned by standardised weights (Brock, De and Smith 2021,
"Characterizing signal propagation to close the performance gap in unnormalized
ResNets"), which `folded` turns into the plain convolutions of prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.geometry import Triple

if TYPE_CHECKING:
    from tasks.networks.architecture import Kernel, Level, Margins, UnetArchitecture

_GAIN = math.sqrt(2.0 / (1.0 - 1.0 / math.pi))
"""Standard deviation of N(0, 1) over that of its positive part."""


class StandardisedConv3d(nn.Conv3d):
    """A valid convolution whose kernels have mean 0, and unit output variance times a gain."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel) -> None:
        super().__init__(inputs, outputs, kernel)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1, 1))
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def standardised(self) -> Tensor:
        """The kernels that are applied, of the weight's shape."""
        axes = (1, 2, 3, 4)
        fan_in = self.weight[0].numel()
        mean = self.weight.mean(axes, keepdim=True)
        variance = self.weight.var(axes, keepdim=True, unbiased=False)
        scale = _GAIN * self.gain * torch.rsqrt(torch.clamp(variance * fan_in, min=1e-4))
        return (self.weight - mean) * scale

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (n, c, z, y, x)."""
        return functional.conv3d(x, self.standardised(), self.bias)


class _Chain(nn.Module):
    """Valid convolutions, each followed by a rectifier.

    The one that sees raw data is plain: kernels of mean 0 would be blind to brightness.
    """

    def __init__(self, inputs: int, outputs: int, kernels: list[Kernel], plain: bool) -> None:
        super().__init__()
        sizes = [inputs] + [outputs] * (len(kernels) - 1)
        self.convs = nn.ModuleList(
            (nn.Conv3d if plain or size == 1 else StandardisedConv3d)(size, outputs, kernel)
            for size, kernel in zip(sizes, kernels, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = functional.relu(conv(x), inplace=True)
        return x


class _Side(nn.Module):
    """What one level does on the way down and on the way up."""

    def __init__(
        self, level: Level, margins: Margins, inputs: int, deeper: int, plain: bool
    ) -> None:
        super().__init__()
        self.factor = level.factor
        self.crop_below = _difference(margins.below, margins.joined)
        self.crop_skip = _difference(margins.skip, margins.joined)
        self.down = _Chain(inputs, level.channels, level.down, plain)
        self.reduce = nn.Conv3d(deeper, level.channels, 1)
        self.up = _Chain(level.channels, level.channels, level.up, plain)

    def join(self, skip: Tensor, below: Tensor) -> Tensor:
        # Adding costs half of what the convolutions after a concatenation would.
        scale = [float(f) for f in self.factor]
        upsampled = functional.interpolate(self.reduce(below), scale_factor=scale)
        joined: Tensor = self.up(_crop(upsampled, self.crop_below) + _crop(skip, self.crop_skip))
        return joined


class Unet(nn.Module):
    """From raw (n, 1, z, y, x) to one tensor of logits per head.

    Parameters
    ----------
    architecture : UnetArchitecture
        Levels, kernels and factors.
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
            _Side(level, margins, inputs, deeper, plain)
            for level, margins, inputs, deeper in zip(
                levels, architecture.margins(), [1, *channels], channels[1:], strict=False
            )
        )
        self.bottom = _Chain(channels[-2], channels[-1], bottom.kernels, plain)
        self.heads = nn.ModuleDict(
            {name: nn.Conv3d(channels[0], count, 1) for name, count in heads.items()}
        )

    def features(self, x: Tensor) -> Tensor:
        """The last features (n, c, z, y, x) of the core that `x` holds with its context."""
        sides = [cast(_Side, side) for side in self.sides]
        skips = []
        for side in sides:
            x = side.down(x)
            skips.append(x)
            x = functional.max_pool3d(x, side.factor)
        x = self.bottom(x)
        for side in reversed(sides):
            x = side.join(skips.pop(), x)
        return x

    def deep(self, x: Tensor) -> list[dict[str, Tensor]]:
        """Logits of every head on the core, finest first, then those of deeper levels."""
        return [self(x)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of every head."""
        features = self.features(x)
        return {name: head(features) for name, head in self.heads.items()}


def folded(trained: nn.Module) -> dict[str, Tensor]:
    """Weights for the plain network that computes what `trained` does."""
    found = {
        name: tensor for name, tensor in trained.state_dict().items() if not name.endswith(".gain")
    }
    for name, module in trained.named_modules():
        if isinstance(module, StandardisedConv3d):
            found[f"{name}.weight"] = module.standardised()
    return {name: tensor.detach().float().contiguous() for name, tensor in found.items()}


def _difference(a: Triple, b: Triple) -> Triple:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _crop(x: Tensor, margin: Triple) -> Tensor:
    z, y, x_ = (slice(m, size - m) for m, size in zip(margin, x.shape[2:], strict=True))
    return x[:, :, z, y, x_]
