"""What the U-Net's levels do: chains of convolutions, and the way down and up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.geometry import Triple, triple

if TYPE_CHECKING:
    from tasks.networks.architecture import Kernel, UnetArchitecture

_GAIN = math.sqrt(2.0 / (1.0 - 1.0 / math.pi))
"""Standard deviation of N(0, 1) over that of its positive part."""


class StandardisedConv3d(nn.Conv3d):
    """A convolution whose kernels have mean 0, and unit output variance times a gain."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel, padding: Triple = (0, 0, 0)
    ) -> None:
        super().__init__(inputs, outputs, kernel, padding=padding)
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
        return functional.conv3d(x, self.standardised(), self.bias, padding=self.padding)


class Chain(nn.Module):
    """Convolutions, each followed by a rectifier.

    The one that sees raw data is plain: kernels of mean 0 would be blind to brightness.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernels: list[Kernel],
        architecture: UnetArchitecture,
        plain: bool,
    ) -> None:
        super().__init__()
        batch = architecture.norm == "batch"
        sizes = [inputs] + [outputs] * (len(kernels) - 1)
        self.convs = nn.ModuleList()
        for size, kernel in zip(sizes, kernels, strict=True):
            padding: Triple = (0, 0, 0)
            if architecture.padding == "same":
                padding = kernel[0] // 2, kernel[1] // 2, kernel[2] // 2
            if plain or batch or size == 1:
                self.convs.append(nn.Conv3d(size, outputs, kernel, padding=padding))
            else:
                self.convs.append(StandardisedConv3d(size, outputs, kernel, padding))
        self.norms = nn.ModuleList(
            nn.BatchNorm3d(outputs) if batch and not plain else nn.Identity() for _ in kernels
        )
        self.residual = architecture.residual and len(kernels) > 1

    def forward(self, x: Tensor) -> Tensor:
        """Features of (n, c, z, y, x), smaller by the kernels' radii if they are valid."""
        first = None
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
            x = norm(conv(x))
            if first is not None and index == len(self.convs):
                x = x + centre(first, x)
            x = functional.relu(x, inplace=True)
            if self.residual and index == 1:
                first = x
        return x


class Side(nn.Module):
    """What one level does on the way down and on the way up."""

    def __init__(
        self,
        index: int,
        inputs: int,
        deeper: int,
        architecture: UnetArchitecture,
        plain: bool,
    ) -> None:
        super().__init__()
        level, margins = architecture.levels[index], architecture.margins()[index]
        self.factor = level.factor
        self.crop_below: Triple = (0, 0, 0)
        self.crop_skip: Triple = (0, 0, 0)
        if architecture.padding == "valid":
            self.crop_below = _difference(margins.below, margins.joined)
            self.crop_skip = _difference(margins.skip, margins.joined)
        self.upsampling, self.concatenate = architecture.upsampling, architecture.skips == "concat"
        self.down = Chain(inputs, level.channels, level.down, architecture, plain)
        self.reduce: nn.Module
        if self.upsampling == "transposed":
            self.reduce = nn.ConvTranspose3d(deeper, level.channels, level.factor, level.factor)
            # Every output voxel has one input voxel: torch counts as if there were many.
            bound = 1 / math.sqrt(deeper)
            nn.init.uniform_(self.reduce.weight, -bound, bound)
        else:
            self.reduce = nn.Conv3d(deeper, level.channels, 1)
        joined = level.channels * (2 if self.concatenate else 1)
        self.up = Chain(joined, level.channels, level.up, architecture, plain)

    def join(self, skip: Tensor, below: Tensor) -> Tensor:
        """The level's last features, of its own and of the next level's."""
        upsampled = self.reduce(below)
        if self.upsampling != "transposed":
            scale = [float(f) for f in self.factor]
            upsampled = functional.interpolate(upsampled, scale_factor=scale, mode=self.upsampling)
        upsampled, skip = crop(upsampled, self.crop_below), crop(skip, self.crop_skip)
        if self.concatenate:
            joined: Tensor = self.up(torch.cat([upsampled, skip], 1))
        else:
            # Adding costs half of what the convolutions after a concatenation would.
            joined = self.up(upsampled + skip)
        return joined


def fold(conv: nn.Conv3d, norm: nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does what `conv` and `norm` do in evaluation."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = norm.weight.double() * torch.rsqrt(variance.double() + norm.eps)
    bias = (cast(Tensor, conv.bias) - mean) * scale + norm.bias
    return conv.weight * scale[:, None, None, None, None], bias


def _difference(a: Triple, b: Triple) -> Triple:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def crop(x: Tensor, margin: Triple) -> Tensor:
    """(n, c, z, y, x) without `margin` voxels on each side."""
    z, y, x_ = (slice(m, size - m) for m, size in zip(margin, x.shape[2:], strict=True))
    return x[:, :, z, y, x_]


def centre(x: Tensor, like: Tensor) -> Tensor:
    """The middle of `x`, of the shape of `like`."""
    sizes = zip(x.shape[2:], like.shape[2:], strict=True)
    return crop(x, triple((size - wanted) // 2 for size, wanted in sizes))
