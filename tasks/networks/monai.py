"""Networks of MONAI, if it is installed (``pip install 'raphe[monai]'``).

They pad, so their context is cut off like that of a padded U-Net. What it is,
nobody declares; `tasks.networks.measure` finds it, and refuses networks whose
output depends on the whole tile.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.geometry import Triple
from tasks.networks.layers import crop
from tasks.networks.measure import Measured, check_local, features_at, measure_context, total_stride
from tasks.parts import Network

_GIVEN = ("spatial_dims", "in_channels", "out_channels")


class MonaiNetwork(Network):
    """A network of MONAI, by its class and arguments.

    Examples
    --------
    >>> network = MonaiNetwork(name="BasicUNet", arguments={"norm": "batch"}, width=16)
    """

    kind: Literal["monai"] = "monai"
    name: str = Field(description="Class in monai.networks.nets, such as BasicUNet or DynUNet.")
    arguments: dict[str, Any] = Field(
        {}, description="What it is built with, without spatial_dims, in_channels, out_channels."
    )
    width: int = Field(32, gt=0, description="Its out_channels: feature maps that heads see.")
    divisible_by: Triple | None = Field(
        None, description="Total downsampling, z y x; null measures it."
    )

    @field_validator("arguments")
    @classmethod
    def _not_given(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if given := [name for name in _GIVEN if name in arguments]:
            raise ValueError(f"{', '.join(given)}: set by Raphe (width is out_channels); leave out")
        if given := [name for name in arguments if name.startswith("pretrained")]:
            raise ValueError(
                f"{', '.join(given)}: weights come from a model directory alone, and nothing is "
                "downloaded; leave it out"
            )
        return arguments

    @property
    def stride(self) -> Triple:
        """Cores are multiples of it, (z, y, x)."""
        return self._measured.stride

    @property
    def context(self) -> Triple:
        """Voxels of input that a core needs on each side, (z, y, x), in whole strides."""
        return self._measured.context

    @property
    def padded(self) -> bool:
        """Whether it pads, so that it has something to say up to a tile's border."""
        return True

    def build(self, channels: Mapping[str, int], *, plain: bool) -> nn.Module:  # noqa: ARG002
        """The network with these heads; the same for training and for prediction."""
        return Wrapped(self.body(), self.width, self.context, channels)

    def folded(self, trained: nn.Module) -> dict[str, Tensor]:
        """The weights as they are, float32, without sharing memory."""
        return {
            name: (value.float() if value.is_floating_point() else value).detach().clone()
            for name, value in trained.state_dict().items()
        }

    def activation_values(self, core: Triple) -> int:
        """The largest number of values alive at once: four times the largest of each resolution.

        Those are the features that enter a layer, those that leave it, and those that
        are kept for a skip and by Python; DynUNet, SegResNet, UNet and BasicUNet
        took 1.8 to 3.5 times.
        """
        largest: dict[Triple, int] = {}
        for shape, channels in features_at(self.body(), self.input_shape(core)):
            largest[shape] = max(largest.get(shape, 0), channels * shape[0] * shape[1] * shape[2])
        return 4 * sum(largest.values())

    @property
    def _measured(self) -> Measured:
        return _measure(self.name, json.dumps(self.arguments), self.width, self.divisible_by)

    def body(self) -> nn.Module:
        """MONAI's own module, with new weights.

        Raises
        ------
        ConfigError
            If MONAI is not installed, or has no such network, or not with these arguments.
        """
        try:
            nets = importlib.import_module("monai.networks.nets")
        except ImportError as error:
            raise ConfigError(
                f"network {self.name!r} is one of MONAI, which is not installed; "
                "pip install 'raphe[monai]'"
            ) from error
        kind = getattr(nets, self.name, None)
        if not isinstance(kind, type) or not issubclass(kind, nn.Module):
            raise ConfigError(f"monai.networks.nets has no network {self.name!r}; check its name")
        try:
            return kind(spatial_dims=3, in_channels=1, out_channels=self.width, **self.arguments)
        except (TypeError, ValueError, KeyError, ImportError) as error:
            raise ConfigError(
                f"monai.networks.nets.{self.name} is not built with {self.arguments}: {error}"
            ) from error


@functools.cache
def _measure(name: str, arguments: str, width: int, stride: Triple | None) -> Measured:
    network = MonaiNetwork(name=name, arguments=json.loads(arguments), width=width)
    body = network.body()
    check_local(name, body)
    found = stride or total_stride(name, body)
    return measure_context(name, body, found, width)


class Wrapped(nn.Module):
    """A module with heads on its rectified output, cut to the core.

    Parameters
    ----------
    body : nn.Module
        From (n, 1, z, y, x) to (n, `width`, z, y, x).
    width : int
    context : tuple of int
        What is cut off each side.
    channels : mapping of str to int
        Of the heads.
    """

    def __init__(
        self, body: nn.Module, width: int, context: Triple, channels: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.body = body
        self.crop = context
        self.heads = nn.ModuleDict(
            {name: nn.Conv3d(width, count, 1) for name, count in channels.items()}
        )
        # Some networks name a layer twice; it is saved once, under its first name.
        first: dict[int, str] = {}
        named = [
            *self.named_parameters(remove_duplicate=False),
            *self.named_buffers(remove_duplicate=False),
        ]
        self._aliases = {name: first.setdefault(id(tensor), name) for name, tensor in named}
        self._aliases = {name: one for name, one in self._aliases.items() if name != one}
        self.register_state_dict_post_hook(_without_aliases)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_aliases)  # type: ignore[no-untyped-call]

    def features(self, x: Tensor) -> Tensor:
        """The last features (n, c, z, y, x) of the core that `x` holds with its context."""
        return crop(functional.relu(self.body(x)), self.crop)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of every head."""
        features = self.features(x)
        return {name: head(features) for name, head in self.heads.items()}

    def deep(self, x: Tensor) -> list[dict[str, Tensor]]:
        """Logits of every head on the core; no deeper levels."""
        return [self(x)]


def _without_aliases(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for name in cast(Wrapped, module)._aliases:
        del state[prefix + name]


def _with_aliases(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for name, first in cast(Wrapped, module)._aliases.items():
        if prefix + first in state:
            state[prefix + name] = state[prefix + first]
