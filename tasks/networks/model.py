"""Model directories: ``model.yaml`` and ``weights.safetensors``, never a pickle.

A model says what it needs: the voxel size that it was trained at, the dtype of
its input and the fixed mean and standard deviation that raw data are scaled
by. Data of another kind are refused, not silently rescaled.
"""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import safetensors.torch
import torch
import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator
from torch import Tensor, nn

from pipeline.config import Predict, Segment
from pipeline.errors import ModelError
from tasks.parts import Part, Target
from tasks.registry import AnyNetwork, AnyTarget

DESCRIPTION = "model.yaml"
WEIGHTS = "weights.safetensors"

SHIPPED = Path(__file__).parents[1] / "models"
"""Where the models that come with Raphe lie."""

_TOLERANCE = 0.1
"""Relative difference of voxel sizes that a model is applied to without complaint."""


_TAKEN = ("raw", "labels")
"""What else is in a batch of a training, by name."""


def _head_name(name: str) -> str:
    if (
        not re.fullmatch(r"[\w-]+", name, re.ASCII)
        or name in _TAKEN
        or hasattr(nn.ModuleDict(), name)
    ):
        raise ValueError(
            f"no head can be called {name!r}: names are letters, digits, - and _, and not those "
            f"that torch or a training uses itself, such as {', '.join(_TAKEN)}; rename it"
        )
    return name


HeadName = Annotated[str, AfterValidator(_head_name)]
"""Name of a head: of a module of torch, of an array in a batch and of files."""


class Normalisation(Part):
    """Raw data enter the network as (value − mean) / std; fixed, never per block."""

    mean: float = Field(description="Of the training data, in units of the raw data.")
    std: Annotated[float, Field(gt=0.0)] = Field(description="Of the training data.")


class Defaults(Part):
    """Fields of a run's configuration that a run takes from its model unless it sets them."""

    segment: dict[str, Any] = Field({}, description="Of the exact decoder.")
    predict: dict[str, Any] = Field({}, description="`output` and `tta`.")

    @model_validator(mode="after")
    def _are_fields(self) -> Self:
        Segment.model_validate(self.segment)
        Predict.model_validate(self.predict)
        return self


class Description(Part):
    """Everything about a model but its weights: the content of ``model.yaml``."""

    format: Literal[2] = Field(2, description="Version of this file's format.")
    network: AnyNetwork = Field(description="Its kind and structure.")
    heads: dict[HeadName, AnyTarget] = Field(
        min_length=1, description="What the network predicts, by name."
    )
    voxel_size: tuple[float, float, float] = Field(description="nm, z y x, trained at.")
    dtype: Literal["uint8", "uint16"] = Field(description="Of the raw data.")
    normalisation: Normalisation = Field(description="Fixed scaling of raw data.")
    defaults: Defaults = Field(
        Defaults(), description="Of runs that use it: what validation found best."
    )
    training: dict[str, Any] = Field({}, description="How it was trained, and its scores.")
    licence: str = Field("", description="Terms of the weights.")
    credit: str = Field("", description="Whom to credit for the training data.")

    def channels(self) -> dict[str, int]:
        """Channels of every head."""
        return {name: head.channels for name, head in self.heads.items()}

    def head(self, name: str) -> Target:
        """A head by name.

        Raises
        ------
        ModelError
            If the model has no such head.
        """
        if name not in self.heads:
            raise ModelError(
                f"the model has no head {name!r}; it has {', '.join(self.heads)}. "
                "Set predict.output to one of them, or use another model."
            )
        return self.heads[name]

    def check_data(
        self, voxel_size: tuple[float, float, float] | None, dtype: np.dtype[Any]
    ) -> None:
        """Refuse data that the model was not trained for.

        Raises
        ------
        ModelError
            If the voxel size differs by more than a tenth, or the dtype at all.
        """
        if voxel_size is None:
            raise ModelError(
                "the raw volume carries no voxel size; set voxel_size in the configuration "
                f"(the model was trained at {list(self.voxel_size)} nm)"
            )
        if not np.allclose(voxel_size, self.voxel_size, rtol=_TOLERANCE, atol=0):
            raise ModelError(
                f"voxel size {list(voxel_size)} nm is not the {list(self.voxel_size)} nm that "
                f"the model was trained at (tolerance {_TOLERANCE:.0%}). Resample the raw volume "
                "or choose another of its scales, correct voxel_size in the configuration if "
                "it is wrong, or use a model for these voxels."
            )
        if dtype != np.dtype(self.dtype):
            raise ModelError(
                f"raw data of dtype {dtype} given to a model trained on {self.dtype}. "
                f"Convert the volume to {self.dtype} with the intensities that the model "
                f"knows (mean {self.normalisation.mean:.1f}, standard deviation "
                f"{self.normalisation.std:.1f})."
            )


def find_model(name: str) -> Path:
    """The directory of a model: a shipped model's name, or a path.

    Raises
    ------
    ModelError
        If there is none.
    """
    for folder in (SHIPPED / name, Path(name)):
        if (folder / DESCRIPTION).is_file() and (folder / WEIGHTS).is_file():
            return folder
    known = sorted(path.parent.name for path in SHIPPED.glob(f"*/{DESCRIPTION}"))
    raise ModelError(
        f"there is no model {name!r}: neither a shipped one ({', '.join(known) or 'none'}) nor a "
        f"directory with {DESCRIPTION} and {WEIGHTS}. `raphe train` makes one."
    )


def read_description(folder: Path) -> Description:
    """Read and check ``model.yaml``.

    Raises
    ------
    ModelError
        With one line for every field that is wrong.
    """
    path = folder / DESCRIPTION
    try:
        data = yaml.safe_load(path.read_text())
        if isinstance(data, dict) and data.get("format") == 1:
            raise ModelError(
                f"{path} is of format 1, which Raphe no longer reads. Train the model again; or "
                "set format: 2, rename architecture to network and give it kind: unet."
            )
        return Description.model_validate(data)
    except (yaml.YAMLError, ValidationError) as error:
        raise ModelError(f"{path} does not describe a model: {error}") from error


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights file."""
    with (folder / WEIGHTS).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_model(
    folder: Path, description: Description, weights: dict[str, Tensor], *, half: bool = False
) -> None:
    """Write a model directory, each file whole.

    Parameters
    ----------
    folder : Path
        Made if need be.
    description : Description
    weights : dict of Tensor
        Those of the plain network.
    half : bool
        Whether to write them as float16, with 11 bits of mantissa, in half of the space.

    Raises
    ------
    ModelError
        If a weight is too large for float16, or not finite at all.
    """
    if half:
        weights = {name: _halved(name, tensor) for name, tensor in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(
        description.model_dump(mode="json"),
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=100,
    )
    contents = {WEIGHTS: safetensors.torch.save(weights), DESCRIPTION: text.encode()}
    for name, data in contents.items():
        partial = folder / f"{name}.partial"
        partial.write_bytes(data)
        partial.replace(folder / name)


def _halved(name: str, tensor: Tensor) -> Tensor:
    halved = tensor.half() if tensor.is_floating_point() else tensor
    if not bool(torch.isfinite(halved).all()):
        raise ModelError(
            f"weights {name} reach {float(tensor.abs().max()):.3g}, and float16 ends at 65504; "
            "save the model with half=False"
        )
    return halved


def load_network(folder: Path) -> tuple[Description, nn.Module]:
    """The description and the network of prediction, float32 on the CPU.

    Raises
    ------
    ModelError
        If a file is damaged or the two do not belong together.
    """
    description = read_description(folder)
    network = description.network.build(description.channels(), plain=True)
    try:
        network.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (safetensors.SafetensorError, RuntimeError, struct.error) as error:
        raise ModelError(
            f"{folder / WEIGHTS} does not hold the weights that {DESCRIPTION} describes "
            f"({error}). Copy the model directory again, both files of it."
        ) from error
    return description, network.eval()
