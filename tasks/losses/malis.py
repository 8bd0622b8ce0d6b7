"""The structured loss: what an edge costs is what it does to the segmentation."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.errors import ConfigError
from tasks.kernels.malis import maximin_pairs
from tasks.parts import Lesson, Loss
from tasks.targets.affinities import NEAREST, Affinities


class Malis(Loss):
    """Constrained MALIS: errors of edges, weighted by the pairs of voxels that hang on them.

    Funke et al. 2018; see `tasks.kernels.malis`. Pairs inside objects and
    pairs of different objects count as much in the sum, however many there
    are, so that a crop with few splits to mend is not all about mergers. Only
    the channels of nearest neighbours are taught; combine it with bce, which
    teaches the others and all that no pair hangs on.
    """

    kind: Literal["malis"] = Field("malis", description="The loss.")
    error: Literal["squared", "bce"] = Field(
        "squared", description="Error of an edge: squared, or cross-entropy (steeper far off)."
    )

    def __call__(self, logits: Tensor, lesson: Lesson) -> Tensor:
        """The mean over samples; see `Loss`.

        Raises
        ------
        ConfigError
            If the head does not have affinities of nearest neighbours.
        """
        channels = _nearest(lesson)
        near = logits[:, channels].float()
        share = _shares(
            lesson.head.probabilities(near), lesson.target[:, channels], lesson.known[:, channels]
        )
        goal = lesson.target[:, channels].float()
        if self.error == "squared":
            error = (lesson.head.probabilities(near) - goal).square()
        else:
            error = torch.nn.functional.binary_cross_entropy_with_logits(
                near, goal, reduction="none"
            )
        return (error * share).sum() / len(logits)


def _nearest(lesson: Lesson) -> list[int]:
    head = lesson.head
    offsets = head.offsets if isinstance(head, Affinities) else []
    if any(offset not in offsets for offset in NEAREST):
        raise ConfigError(
            f"loss malis needs affinities with the offsets {[list(o) for o in NEAREST]} among "
            f"others; a head of kind {head.kind!r} with offsets {[list(o) for o in offsets]} has "
            "them not. Give it to another head."
        )
    return [offsets.index(offset) for offset in NEAREST]


@torch.no_grad()
def _shares(probabilities: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Share of the pairs that each edge decides, float32 (n, 3, z, y, x); each pass sums to 1."""
    found = np.zeros(probabilities.shape, np.float32)
    samples = zip(*(each.cpu().numpy() for each in (probabilities, target, known)), strict=True)
    for share, sample in zip(found, samples, strict=True):
        for pairs in maximin_pairs(*sample):
            share += pairs / max(1, pairs.sum())
    return torch.from_numpy(found).to(probabilities.device)
