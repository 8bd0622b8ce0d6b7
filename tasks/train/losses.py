"""Losses of the heads, with unknown voxels and edges left out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def affinity_loss(
    logits: Tensor, target: Tensor, known: Tensor, *, balance: float, smoothing: float
) -> Tensor:
    """Binary cross-entropy, balanced between joined and cut edges in each channel.

    Parameters
    ----------
    logits, target, known : Tensor
        (n, c, z, y, x); target and known are bool.
    balance : float
        The rarer class counts at most this much more than the other one.
    smoothing : float
        The network is taught `smoothing` and 1 − `smoothing`, not 0 and 1.
    """
    axes = (0, 2, 3, 4)
    joined = (target & known).sum(axes, keepdim=True).clamp(min=1)
    cut = (~target & known).sum(axes, keepdim=True).clamp(min=1)
    ratio = (joined / cut).clamp(1 / balance, balance).sqrt()
    weight = torch.where(target, 1 / ratio, ratio) * known
    goal = target * (1 - 2 * smoothing) + smoothing
    loss = functional.binary_cross_entropy_with_logits(
        logits.float(), goal, weight=weight, reduction="sum"
    )
    return loss / weight.sum().clamp(min=1)


def distance_loss(logits: Tensor, distance: Tensor, known: Tensor, *, scale: float) -> Tensor:
    """Mean squared error of squashed distances.

    Parameters
    ----------
    logits, distance, known : Tensor
        (n, 1, z, y, x); distance in nm.
    scale : float
        nm at which the squashed distance is tanh(1).
    """
    error = torch.tanh(logits.float()) - torch.tanh(distance / scale)
    return (error.square() * known).sum() / known.sum().clamp(min=1)
