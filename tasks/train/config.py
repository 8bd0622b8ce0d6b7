"""The configuration of a training, and nothing that computes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config import parse_as
from pipeline.errors import ConfigError
from tasks.networks.architecture import Kernel, Part, UnetArchitecture
from tasks.networks.heads import NEAREST, AffinityHead, Head
from tasks.train.augment import Augment

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Truth(Part):
    """A raw volume and its labels, of one shape."""

    raw: str = Field(description="Raw volume: a path or URL.")
    labels: str = Field(description="Its labels; 0 is unknown.")
    slices: tuple[Annotated[int, Field(ge=0)], Positive] | None = Field(
        None, description="Slices z from … to, not including, that are used; all if null."
    )


class Optimiser(Part):
    """AdamW with warm-up, then a cosine from `learning_rate` to nothing."""

    learning_rate: PositiveFloat = Field(0.002, description="The largest one.")
    warmup: Positive = Field(100, description="Steps of linear warm-up.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(1e-4, description="Decoupled decay.")
    clip: PositiveFloat = Field(1.0, description="Largest norm of the gradient.")
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.998, description="Decay of the moving average of the weights; that average is shipped."
    )


class Training(Part):
    """Everything that says how a model is trained."""

    output: str = Field(description="Folder of the model and of the checkpoints.")
    training: list[Truth] = Field(min_length=1, description="What is learnt from.")
    validation: Truth = Field(description="What is scored, never learnt from.")
    voxel_size: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        description="nm, z y x, of all volumes."
    )
    dust: Annotated[int, Field(ge=0)] = Field(
        100, description="Objects of fewer voxels are unknown."
    )
    architecture: UnetArchitecture = Field(description="The network.")
    heads: dict[str, Head] = Field(
        min_length=1,
        description="What is predicted, by name; `affinities` and `distances` are what "
        "predict.output chooses from, others are auxiliary.",
    )
    weights: dict[str, PositiveFloat] = Field({}, description="Of the heads' losses; 1 if absent.")
    balance: Annotated[float, Field(ge=1.0)] = Field(
        4.0, description="The rarer of joined and cut edges counts at most this much more."
    )
    smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(
        0.04, description="Affinities are taught as this and 1 minus this, not as 0 and 1."
    )
    crop: Kernel = Field(description="Core of a training crop in voxels, z y x.")
    batch: Positive = Field(1, description="Crops per step.")
    augment: Augment = Field(Augment(), description="Random changes of crops.")
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
    validate_minutes: PositiveFloat = Field(5.0, description="Minutes between validations.")
    seed: int = Field(0, description="Of weights and crops.")
    licence: str = Field("", description="Terms of the weights, for the model's description.")
    credit: str = Field("", description="Whom to credit for the data.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        stride = self.architecture.stride
        if any(c % s for c, s in zip(self.crop, stride, strict=True)):
            raise ValueError(f"crop {self.crop} is not a multiple of the network's stride {stride}")
        if unknown := self.weights.keys() - self.heads.keys():
            raise ValueError(f"weights of heads that do not exist: {', '.join(sorted(unknown))}")
        scored = self.heads.get("affinities")
        if not isinstance(scored, AffinityHead) or scored.offsets != NEAREST:
            raise ValueError(
                "heads needs 'affinities' of kind affinities with offsets "
                f"{[list(offset) for offset in NEAREST]}: what a run segments, and a model is "
                "scored by"
            )
        return self


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
        raise ConfigError(f"there is no training configuration at {path!r}") from error
    return parse_as(Training, text, path)
