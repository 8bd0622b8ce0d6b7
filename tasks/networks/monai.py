"""Networks of MONAI, if it is installed (``pip install raphe[monai]``)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.geometry import Triple, triple
from tasks.parts import Network


class MonaiNetwork(Network):
    """A network of MONAI by its class name and arguments."""

    kind: Literal["monai"] = "monai"
    name: str = Field(description="Class in monai.networks.nets.")
    arguments: dict[str, Any] = Field({}, description="What it is built with.")
    width: int = Field(32, gt=0, description="Feature maps that the heads see.")
    stride_: Triple = Field(alias="stride", description="Total downsampling, z y x.")
    context_: Triple = Field(alias="context", description="Voxels on each side, z y x.")

    @property
    def stride(self) -> Triple:
        """Cores are multiples of it, (z, y, x)."""
        return self.stride_

    @property
    def context(self) -> Triple:
        """Voxels of input that a core needs on each side, (z, y, x)."""
        return self.context_

    def build(self, channels: Mapping[str, int], *, plain: bool) -> nn.Module:  # noqa: ARG002
        """The network with these heads."""
        return _Wrapped(self, channels)

    def folded(self, trained: nn.Module) -> dict[str, Tensor]:
        """The weights as they are, float32."""
        return {name: value.detach().clone() for name, value in trained.state_dict().items()}

    def activation_values(self, core: Triple) -> int:
        """An upper bound for networks that keep four times their width at the finest level."""
        z, y, x = self.input_shape(core)
        return 4 * self.width * z * y * x


class _Wrapped(nn.Module):
    def __init__(self, network: MonaiNetwork, channels: Mapping[str, int]) -> None:
        super().__init__()
        try:
            nets = importlib.import_module("monai.networks.nets")
        except ImportError as error:
            raise ConfigError(
                f"network {network.name!r} is one of MONAI, which is not installed; "
                "pip install 'raphe[monai]'"
            ) from error
        self.context = triple(network.context)
        self.body = getattr(nets, network.name)(
            spatial_dims=3, in_channels=1, out_channels=network.width, **network.arguments
        )
        self.heads = nn.ModuleDict(
            {name: nn.Conv3d(network.width, count, 1) for name, count in channels.items()}
        )

    def features(self, x: Tensor) -> Tensor:
        z, y, x_ = (slice(c, n - c) for c, n in zip(self.context, x.shape[2:], strict=True))
        return functional.relu(self.body(x)[:, :, z, y, x_])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.features(x)
        return {name: head(features) for name, head in self.heads.items()}

    def deep(self, x: Tensor) -> list[dict[str, Tensor]]:
        return [self(x)]
