"""Weights and checks that several losses share."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from tasks.parts import Lesson

SPACE = (0, 2, 3, 4)
"""All axes but that of the channels."""


def balanced(positive: Tensor, known: Tensor, balance: float) -> Tensor:
    """Weights that let the rarer of two classes count more, in each channel; 0 where unknown.

    Parameters
    ----------
    positive, known : Tensor
        (n, c, z, y, x) of bool.
    balance : float
        The rarer class counts at most this much more than the other one.

    Returns
    -------
    Tensor
        float32, of the same shape.
    """
    here = (positive & known).sum(SPACE, keepdim=True).clamp(min=1)
    other = (~positive & known).sum(SPACE, keepdim=True).clamp(min=1)
    ratio = (here / other).clamp(1 / balance, balance).sqrt()
    return torch.where(positive, 1 / ratio, ratio) * known


def check_classes(lesson: Lesson, loss: str) -> None:
    """Raise unless the target is 0 or 1.

    Raises
    ------
    ConfigError
        If it is a number in between.
    """
    if lesson.target.dtype != torch.bool:
        raise ConfigError(
            f"loss {loss} is for heads that are taught 0 or 1, not for one of kind "
            f"{lesson.head.kind!r}; use mse or l1 for it"
        )
