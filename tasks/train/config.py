"""The configuration of a training, and nothing that computes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.config import parse_as
from pipeline.errors import ConfigError
from tasks.networks.model import HeadName
from tasks.parts import Part
from tasks.registry import AnyAugmentation, AnyLoss, AnyNetwork, AnyTarget
from tasks.targets.affinities import NEAREST
from tasks.train.data import Truth
from tasks.train.options import Optimiser, Positive, PositiveFloat, Validate

Core = tuple[Positive, Positive, Positive]

AUGMENTATIONS = ("flip", "transpose", "contrast", "brightness", "gamma", "noise")
"""What crops are changed by if the configuration does not say."""


def _several(given: Any) -> Any:
    return given if isinstance(given, list) else [given]


class Training(Part):
    """Everything that says how a model is trained."""

    # pydantic has a method `validate`, so that the field needs another name here than in YAML.
    model_config = ConfigDict(serialize_by_alias=True)

    output: str = Field(description="Folder of the model and of the checkpoints.")
    training: list[Truth] = Field(min_length=1, description="What is learnt from.")
    validation: Annotated[list[Truth], BeforeValidator(_several)] = Field(
        min_length=1, description="What is scored, never learnt from: one volume, or a list."
    )
    voxel_size: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        description="nm, z y x, of all volumes."
    )
    dust: Annotated[int, Field(ge=0)] = Field(
        100, description="Objects of fewer voxels are unknown."
    )
    network: AnyNetwork = Field(description="The network, by its `kind` and structure.")
    heads: dict[HeadName, AnyTarget] = Field(
        min_length=1,
        description="What is predicted, by name; `affinities`, `distances` and `boundary` are what "
        "predict.output chooses from, others are auxiliary.",
    )
    losses: dict[str, list[AnyLoss]] = Field(
        {},
        validate_default=True,
        description="What each head is taught by: a weighted sum; its own default if absent.",
    )
    deep_supervision: list[PositiveFloat] = Field(
        [1.0], min_length=1, description="Weights of the losses, finest level first."
    )
    crop: Core = Field(description="Core of a training crop in voxels, z y x.")
    batch: Positive = Field(1, description="Crops per step, of each process.")
    augmentations: list[AnyAugmentation] = Field(
        [{"kind": kind} for kind in AUGMENTATIONS],
        validate_default=True,
        description="Random changes of crops, in the order in which they are made.",
    )
    optimiser: Optimiser = Field(Optimiser(), description="How weights follow gradients.")
    steps: Positive = Field(description="Steps after which training ends.")
    minutes: PositiveFloat | None = Field(
        None, description="Minutes after which it ends, if earlier; the schedule adapts."
    )
    precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Arithmetic of the network."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto takes CUDA where there is one."
    )
    workers: Annotated[int, Field(ge=0)] = Field(
        0, description="Processes that make crops; 0 makes them in a thread."
    )
    validate_: Validate = Field(
        Validate(minutes=10.0), alias="validate", description="When the network is scored, and how."
    )
    checkpoint_minutes: PositiveFloat = Field(
        10.0, description="Minutes between checkpoints; each validation makes one, too."
    )
    early_stop: Positive | None = Field(
        None, description="Validations without a better score after which training ends."
    )
    init: str | None = Field(
        None, description="Model whose weights training begins with: a name or a directory."
    )
    freeze: list[str] = Field(
        [], description="Patterns, such as sides.0.*, of parameters that stay as they are."
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Of weights and crops.")
    licence: str = Field("", description="Terms of the weights, for the model's description.")
    credit: str = Field("", description="Whom to credit for the data.")

    @field_validator("losses", mode="before")
    @classmethod
    def _default_losses(cls, given: Any, info: ValidationInfo) -> Any:
        heads = info.data.get("heads")
        if heads is None or not isinstance(given, dict):
            return given
        return {name: head.default_losses() for name, head in heads.items()} | given

    @model_validator(mode="after")
    def _whole(self) -> Self:
        stride = self.network.stride
        if any(c % s for c, s in zip(self.crop, stride, strict=True)):
            raise ValueError(f"crop {self.crop} is not a multiple of the network's stride {stride}")
        if unknown := self.losses.keys() - self.heads.keys():
            raise ValueError(
                f"losses of heads that do not exist: {', '.join(sorted(unknown))}; "
                f"the heads are {', '.join(self.heads)}"
            )
        if empty := [name for name, losses in self.losses.items() if not losses]:
            raise ValueError(
                f"losses: {', '.join(empty)} has none, so that nothing would teach it; "
                "remove the head, or name a loss"
            )
        self.scored_head()
        return self

    def scored_head(self) -> str:
        """Name of the head that validation decodes.

        Raises
        ------
        ValueError
            If no head can be decoded, or not the one that is asked for.
        """
        able = [name for name, head in self.heads.items() if head.decoding != "none"]
        wanted = self.validate_.head or ("affinities" if "affinities" in able else None)
        if wanted is None and able:
            wanted = able[0]
        if wanted is None or wanted not in able:
            offsets = [list(offset) for offset in NEAREST]
            raise ValueError(
                f"heads needs {wanted or 'affinities'!r} of kind affinities with offsets {offsets} "
                "(or of one channel, 1 inside objects): what a run segments, and a model is "
                f"scored by; the heads are {', '.join(self.heads)}"
            )
        return wanted


def load(path: str) -> Training:
    """Read a training configuration.

    Raises
    ------
    ConfigError
        With one line for every field that is wrong.
    """
    try:
        text = Path(path).read_text()
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no training configuration at {path!r}; "
            "`raphe train --init-from RAW LABELS` writes one"
        ) from error
    return parse_as(Training, text, path)
