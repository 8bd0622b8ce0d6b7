"""What a network that somebody else wrote needs of a tile, found by trying.

The stride is how much smaller its smallest features are. The context is how far
gradients reach from one stride of the output, along one axis at a time, where
all weights are positive and maxima are means, so that nothing hides. At the end,
the network itself must say the same of a core in a short tile as in a long one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.geometry import Triple, triple

LONGEST = 1024
"""Voxels of the longest input that is tried; a network that sees more is refused."""

_WHOLE_TILE = (
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_CONVOLUTION = nn.modules.conv._ConvNd


@dataclass(frozen=True)
class Measured:
    """Stride and context of a network, (z, y, x), the context in whole strides."""

    stride: Triple
    context: Triple


def check_local(name: str, body: nn.Module) -> None:
    """Refuse layers whose output depends on the whole tile.

    Raises
    ------
    ModelError
        With the layer, the reason and what to choose instead.
    """
    for path, module in body.named_modules():
        if isinstance(module, _WHOLE_TILE):
            raise ModelError(
                f"network {name!r} has a {type(module).__name__} ({path}), whose output at a voxel "
                "depends on the whole tile around it, so that tiles would show in predictions. "
                "Choose batch normalisation (norm: batch, or norm_name: batch), which is fixed "
                "after training, and no global pooling."
            )


def features_at(body: nn.Module, shape: Triple) -> Iterator[tuple[Triple, int]]:
    """Extent (z, y, x) and channels of all that enters or leaves a layer, without computing it."""
    found: list[tuple[Triple, int]] = []

    def note(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        found.extend(
            (triple(x.shape[2:]), x.shape[1])
            for x in (*inputs, output)
            if isinstance(x, Tensor) and x.ndim == 5
        )

    meta = copy.deepcopy(body).to("meta").eval()
    for module in meta.modules():
        module.register_forward_hook(note)
    with torch.no_grad():
        meta(torch.zeros(1, 1, *shape, device="meta"))
    yield from found


def total_stride(name: str, body: nn.Module) -> Triple:
    """How much smaller the smallest features are than the input, (z, y, x).

    Raises
    ------
    ModelError
        If the network does not run on a tile of 192³ voxels, or its strides are unusual.
    """
    side = 192
    try:
        shapes = [shape for shape, _ in features_at(body, (side, side, side))]
    except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"network {name!r} does not run on a tile of {side}³ voxels ({error}); only networks "
            "that take tiles of any size can predict whole volumes. If its total downsampling "
            "does not divide this, give divisible_by."
        ) from error
    smallest = triple(min(shape[axis] for shape in shapes) for axis in range(3))
    if any(side % size for size in smallest):
        raise ModelError(
            f"network {name!r} makes features of {smallest} voxels of {side}³; give divisible_by"
        )
    return triple(side // size for size in smallest)


def measure_context(name: str, body: nn.Module, stride: Triple, width: int) -> Measured:
    """How far a stride of the output sees, by gradients; then tiles are compared.

    Raises
    ------
    ModelError
        If the output is not (n, `width`, z, y, x) of the input's extent, or sees too far,
        or is not the same in every tile.
    """
    smooth = _smooth(body)
    context = triple(_radius(name, smooth, stride, axis, width) for axis in range(3))
    measured = Measured(stride, context)
    for axis in range(3):
        _check_tiles(name, body, measured, axis)
    return measured


def _smooth(body: nn.Module) -> nn.Module:
    """A copy that hides no dependence: positive weights, and means in place of maxima."""
    found = copy.deepcopy(body).double().eval()
    generator = torch.Generator().manual_seed(0)
    for module in list(found.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, nn.MaxPool3d):
                mean = nn.AvgPool3d(child.kernel_size, child.stride, child.padding)
                setattr(module, child_name, mean)
        if isinstance(module, _BATCH_NORM):
            module.reset_running_stats()
            module.reset_parameters()
        if isinstance(module, _CONVOLUTION):
            weight = module.weight.data
            weight.uniform_(0.5, 1.0, generator=generator).div_(weight[0].numel())
            if module.bias is not None:
                module.bias.data.zero_()
    return found


def _radius(name: str, smooth: nn.Module, stride: Triple, axis: int, width: int) -> int:
    """Voxels along one axis, in whole strides."""
    step = stride[axis]
    length = 16 * step
    while length <= max(LONGEST, 16 * step):
        shape = [length if k == axis else s for k, s in enumerate(stride)]
        x = torch.rand(1, 1, *shape, dtype=torch.float64, requires_grad=True)
        output = smooth(x)
        if not isinstance(output, Tensor) or output.shape != (1, width, *shape):
            raise ModelError(
                f"network {name!r} does not give {width} feature maps as large as its input; "
                "leave out deep supervision and whatever makes it return other things"
            )
        middle = length // (2 * step) * step
        output.movedim(2 + axis, 0)[middle : middle + step].sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None  # noqa: S101
        others = [k for k in range(3) if k != axis]
        seen = torch.nonzero(x.grad[0, 0].abs().sum(others)).flatten()
        first, last = int(seen.min()), int(seen.max())
        if first > 0 and last < length - 1:
            return -(-max(middle - first, last - middle - step + 1) // step) * step
        length *= 2
    raise ModelError(
        f"network {name!r} sees more than {LONGEST // 2} voxels to each side along axis "
        f"{'zyx'[axis]}, perhaps the whole tile, so that tiles would show in predictions; "
        "choose one without attention over the whole tile or global pooling"
    )


def _check_tiles(name: str, body: nn.Module, measured: Measured, axis: int) -> None:
    """The network itself must say the same of a core in tiles of different lengths."""
    step, context = measured.stride[axis], measured.context[axis]
    network = copy.deepcopy(body).double().eval()
    n_steps = 3
    length = n_steps * step + 2 * context
    shape = [length if k == axis else s for k, s in enumerate(measured.stride)]
    x = torch.randn(
        1, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).movedim(2 + axis, 0)

    def core(tile: Tensor) -> Tensor:
        output = network(tile.movedim(0, 2 + axis)).movedim(2 + axis, 0)
        return cast(Tensor, output[context : len(output) - context])

    with torch.no_grad():
        whole = core(x)
        for index in range(n_steps):
            begin = index * step
            found = core(x[begin : begin + step + 2 * context])
            worst = float((found - whole[begin : begin + step]).abs().max())
            if not worst <= 1e-6 * max(1.0, float(whole.abs().max())):
                raise ModelError(
                    f"network {name!r} says something else of the same voxels in another tile (by "
                    f"{worst:.2g} along axis {'zyx'[axis]}), although they see no further than "
                    f"{context} voxels. Interpolation that aligns corners does this: choose "
                    "transposed convolutions (upsample: deconv)."
                )
