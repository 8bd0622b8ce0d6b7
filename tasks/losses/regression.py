"""Losses of heads that are taught numbers, such as squashed distances.

Prediction and target are compared on the scale −1…1, that of tanh.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tasks.losses.weights import balanced
from tasks.parts import Lesson, Loss

Balance = Annotated[float, Field(ge=1.0)]
_BALANCE = "The rarer of the two sides of the border counts at most this much more."


class Mse(Loss):
    """Mean squared error of what the head says, on a scale of −1…1."""

    kind: Literal["mse"] = Field("mse", description="The loss.")
    balance: Balance = Field(1.0, description=_BALANCE)

    def __call__(self, logits: Tensor, lesson: Lesson) -> Tensor:
        """The mean over known voxels, weighted; see `Loss`."""
        return _mean(_error(logits, lesson).square(), lesson, self.balance)


class L1(Loss):
    """Mean absolute error of what the head says, on a scale of −1…1."""

    kind: Literal["l1"] = Field("l1", description="The loss.")
    balance: Balance = Field(1.0, description=_BALANCE)

    def __call__(self, logits: Tensor, lesson: Lesson) -> Tensor:
        """The mean over known voxels, weighted; see `Loss`."""
        return _mean(_error(logits, lesson).abs(), lesson, self.balance)


def _error(logits: Tensor, lesson: Lesson) -> Tensor:
    return 2 * (lesson.head.probabilities(logits) - lesson.target.float())


def _mean(error: Tensor, lesson: Lesson, balance: float) -> Tensor:
    weight = balanced(lesson.target > 0.5, lesson.known, balance)
    return (error * weight).sum() / weight.sum().clamp(min=1)
