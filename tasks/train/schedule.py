"""How far a training is, and the learning rate that follows from it.

Progress is the larger of the share of steps done and the share of minutes
used, so that a slow machine trains less but always ends with a small rate.
"""

from __future__ import annotations

import math

from tasks.train.config import Training
from tasks.train.options import Optimiser


def progress(config: Training, step: int, seconds: float) -> float:
    """How far the training is after some steps and seconds, 0 to 1."""
    share = step / config.steps
    if config.minutes is not None:
        share = max(share, seconds / (60 * config.minutes))
    return min(share, 1.0)


def learning_rate(optimiser: Optimiser, step: int, share: float) -> float:
    """Linear warm-up over steps, times the schedule over the progress `share`.

    Examples
    --------
    >>> [learning_rate(Optimiser(learning_rate=1, warmup=2), step, 0.5) for step in (0, 9)]
    [0.25, 0.5]
    """
    warm = min(1.0, (step + 1) / optimiser.warmup)
    return optimiser.learning_rate * warm * _fallen(optimiser, share)


def _fallen(optimiser: Optimiser, share: float) -> float:
    match optimiser.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * share))
        case "polynomial":
            return float((1 - share) ** optimiser.power)
        case "step":
            return 0.1 ** sum(share >= drop for drop in optimiser.drops)
        case "constant":
            return 1.0
