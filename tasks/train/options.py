"""Parts of the configuration of a training: how weights change, and how they are scored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config import Segment
from tasks.parts import Part

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class Optimiser(Part):
    """AdamW with warm-up, then a schedule from `learning_rate` towards nothing."""

    learning_rate: PositiveFloat = Field(0.002, description="The largest one.")
    warmup: Positive = Field(100, description="Steps of linear warm-up.")
    schedule: Literal["cosine", "polynomial", "step", "constant"] = Field(
        "cosine", description="How the learning rate falls over the training."
    )
    power: PositiveFloat = Field(0.9, description="polynomial: rate · (1 − progress) ** power.")
    drops: list[Share] = Field(
        [0.5, 0.75], description="step: at these shares of the training the rate falls to a tenth."
    )
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Memory of both moments.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(1e-4, description="Decoupled decay.")
    clip: PositiveFloat = Field(1.0, description="Largest norm of the gradient.")
    ema: Decay = Field(
        0.998, description="Decay of the moving average of the weights; that average is shipped."
    )


class Validate(Part):
    """When the network is scored, and with which parameters of the decoder."""

    steps: Positive | None = Field(None, description="Steps between validations.")
    minutes: PositiveFloat | None = Field(
        None, description="Minutes between validations; 10 if `steps` is not set either."
    )
    after: Annotated[int, Field(ge=0)] = Field(
        0, description="Steps before the first validation; the last step is always scored."
    )
    head: str | None = Field(
        None, description="What is scored; `affinities`, or else the first that can be."
    )
    tta: Literal["none", "flips", "all"] = Field(
        "none", description="Test-time augmentation, as in a run; stored with the model."
    )
    thresholds: list[Share] = Field(
        [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7],
        min_length=1,
        description="Of the agglomeration; the best one is stored with the model.",
    )
    absorb_sizes: list[Annotated[int, Field(ge=0)]] = Field(
        [600], min_length=1, description="Of the agglomeration, in voxels; likewise."
    )
    segment: Segment = Field(Segment(), description="The decoder's other parameters.")

    @model_validator(mode="before")
    @classmethod
    def _sometimes(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("steps") and not given.get("minutes"):
            return given | {"minutes": 10.0}
        return given
