"""Binary cross-entropy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from tasks.losses.weights import balanced, check_classes
from tasks.parts import Lesson, Loss


class BalancedBce(Loss):
    """Binary cross-entropy, balanced between joined and cut edges in each channel."""

    kind: Literal["bce"] = Field("bce", description="The loss.")
    balance: Annotated[float, Field(ge=1.0)] = Field(
        4.0, description="The rarer of the two classes counts at most this much more."
    )
    smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(
        0.04, description="What is taught is this and 1 minus this, not 0 and 1."
    )

    def __call__(self, logits: Tensor, lesson: Lesson) -> Tensor:
        """The mean over known voxels, weighted; see `Loss`.

        Raises
        ------
        ConfigError
            If the target is not of two classes.
        """
        check_classes(lesson, self.kind)
        weight = balanced(lesson.target, lesson.known, self.balance)
        goal = lesson.target * (1 - 2 * self.smoothing) + self.smoothing
        loss = functional.binary_cross_entropy_with_logits(
            logits.float(), goal, weight=weight, reduction="sum"
        )
        return loss / weight.sum().clamp(min=1)
