"""Several models that predict the same: their mean, median or maximum, in integers."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.geometry import triple
from tasks.networks.model import Description
from tasks.networks.tile import Needs, TilePredictor

Combination = Literal["mean", "median", "max"]


def check_members(descriptions: dict[str, Description], head: str) -> None:
    """Refuse models whose predictions do not mean the same; by their names.

    Raises
    ------
    ModelError
        If they differ in the head's channels, the voxel size or the dtype of raw data.
    """
    (name, first), *others = descriptions.items()
    for other, description in others:
        for what, a, b in (
            (f"head {head!r}", first.head(head).attributes(), description.head(head).attributes()),
            ("dtype", first.dtype, description.dtype),
        ):
            if a != b:
                raise ModelError(
                    f"models {name!r} and {other!r} cannot be combined: {what} is {a} in one and "
                    f"{b} in the other. Use models that were trained for the same."
                )
        if not np.allclose(first.voxel_size, description.voxel_size, rtol=1e-3, atol=0):
            raise ModelError(
                f"models {name!r} and {other!r} cannot be combined: they were trained at "
                f"{list(first.voxel_size)} and {list(description.voxel_size)} nm. Use models for "
                "the same voxels."
            )


def joined_needs(members: list[Needs]) -> Needs:
    """What all members need of a tile."""
    return Needs(
        triple(math.lcm(*(m.stride[k] for m in members)) for k in range(3)),
        triple(max(m.context[k] for m in members) for k in range(3)),
        triple(max(m.grown[k] for m in members) for k in range(3)),
    )


class Ensemble(TilePredictor):
    """What several predictors say of a tile, as one.

    Parameters
    ----------
    members : list of TilePredictor
        Of the same head, each adding as many probabilities.
    how : {"mean", "median", "max"}
        Per voxel and channel; the median of an even number is the mean of the middle two.
    """

    def __init__(self, members: list[TilePredictor], how: Combination) -> None:
        self.members, self.how = members, how
        self.head, self.device = members[0].head, members[0].device
        self.needs = joined_needs([member.needs for member in members])
        counts = {member.count for member in members}
        if len(counts) > 1:
            raise ModelError(f"members add {sorted(counts)} predictions each; they must be equal")
        (count,) = counts
        n_members = len(members)
        added = {"mean": n_members, "median": 2 - n_members % 2, "max": 1}
        self.count = count * added[how]

    def levels(self, raw: Tensor) -> Tensor:
        """The members' levels combined, int32 (c, z, y, x) of the core."""
        found = [member.levels(self._input(member, raw)) for member in self.members]
        if self.how == "median":
            ordered = torch.stack(found).sort(0).values
            middle = len(found) // 2
            return ordered[middle] if len(found) % 2 else ordered[middle - 1] + ordered[middle]
        total = found.pop()
        while found:
            if self.how == "mean":
                total.add_(found.pop())
            else:
                torch.maximum(total, found.pop(), out=total)
        return total

    def _input(self, member: TilePredictor, raw: Tensor) -> Tensor:
        """The tile with as much context as `member` needs."""
        spare = zip(self.needs.context, member.needs.context, strict=True)
        margins = [mine - its for mine, its in spare]
        z, y, x = (slice(m, n - m) for m, n in zip(margins, raw.shape, strict=True))
        return raw[z, y, x].contiguous()
