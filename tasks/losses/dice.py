"""Overlap of what is predicted and what is taught."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from tasks.losses.weights import SPACE, check_classes
from tasks.parts import Lesson, Loss


class Dice(Loss):
    """1 − the Dice coefficient of the rarer class, mean over channels; blind to imbalance.

    Milletari, Navab and Ahmadi 2016, "V-Net", with sums instead of squares.
    """

    kind: Literal["dice"] = Field("dice", description="The loss.")

    def __call__(self, logits: Tensor, lesson: Lesson) -> Tensor:
        """The loss over known voxels; see `Loss`.

        Raises
        ------
        ConfigError
            If the target is not of two classes.
        """
        check_classes(lesson, self.kind)
        known = lesson.known.float()
        p, t = lesson.head.probabilities(logits), lesson.target.float()
        # The overlap of a class that is nearly everywhere is good whatever is predicted.
        common = 2 * (t * known).sum(SPACE, keepdim=True) > known.sum(SPACE, keepdim=True)
        p, t = p.where(~common, 1 - p) * known, t.where(~common, 1 - t) * known
        overlap = 2 * (p * t).sum(SPACE)
        # The 1 makes it 0 where nothing is known.
        coefficient = (overlap + 1) / (p.sum(SPACE) + t.sum(SPACE) + 1)
        return (1 - coefficient).mean()
