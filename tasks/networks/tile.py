"""What predicts a tile: one network, several, or one that sees the tile turned.

Where predictions are averaged, they are first rounded to 1/65535 and then added
as integers, so that neither the order of the summands nor the turning of a tile
can change a bit of the result. On a GPU the upload of a tile, the network at
work on the one before and the download of the one before that go on at the same
time. A process has one network at work at any time, whatever the number of its
threads: on a CPU it takes all cores that it is given, on a GPU it would only
compete for memory.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.geometry import Triple
from tasks.parts import Target

LEVELS = 65535
"""A probability of 1 where predictions are added as integers."""

SLAB = 8
"""Slices that go through the last arithmetic at a time, so that they stay in cache."""

Tile = npt.NDArray[Any]

_AT_WORK = threading.Lock()


@dataclass(frozen=True)
class Needs:
    """What a predictor needs of a tile.

    Attributes
    ----------
    stride : tuple of int
        Cores begin at, and are, multiples of it, (z, y, x).
    context : tuple of int
        Voxels of raw data on each side of a core.
    grown : tuple of int
        Voxels by which the networks' own cores are larger, on each side.
    """

    stride: Triple
    context: Triple
    grown: Triple = (0, 0, 0)


class TilePredictor(ABC):
    """From a tile's raw data to one head's prediction of its core.

    Attributes
    ----------
    head : Target
        What is predicted.
    device : torch.device
        Where.
    needs : Needs
    count : int
        How many probabilities `levels` adds.
    """

    head: Target
    device: torch.device
    needs: Needs
    count: int
    _upload: torch.cuda.Stream | None = None

    @abstractmethod
    def levels(self, raw: Tensor) -> Tensor:
        """Sums of `count` probabilities in units of 1/65535, int32 (c, z, y, x) of the core.

        `raw` is the core with its context, (z, y, x), on the device.
        """

    def quantised(self, raw: Tensor) -> Tensor:
        """The prediction as uint8, (c, z, y, x) of the core."""
        return as_uint8(self.levels(raw), self.count)

    def submit(
        self, raw: npt.NDArray[Any], predict: Callable[[Tensor], Tensor] | None = None
    ) -> Callable[[], Tile]:
        """Begin to predict a tile.

        Parameters
        ----------
        raw : ndarray
            The core with its context, (z, y, x), of the model's dtype.
        predict : callable, optional
            `quantised`, the default, or `levels`.

        Returns
        -------
        callable
            Waits for the result: (c, z, y, x) of the core.
        """
        predict = predict or self.quantised
        # On a CPU the work is done here; the lock keeps other threads' tiles off its cores.
        with _AT_WORK, torch.inference_mode():
            if self.device.type != "cuda":
                result = predict(torch.from_numpy(raw)).numpy()
                return lambda: result
            return self._submit_cuda(raw, predict)

    def _submit_cuda(
        self, raw: npt.NDArray[Any], predict: Callable[[Tensor], Tensor]
    ) -> Callable[[], Tile]:
        if self._upload is None:
            self._upload = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        pinned = torch.from_numpy(raw).pin_memory()
        with torch.cuda.stream(self._upload):
            there = pinned.to(self.device, non_blocking=True)
        compute = torch.cuda.current_stream(self.device)
        compute.wait_stream(self._upload)
        there.record_stream(compute)
        values = predict(there)
        here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        here.copy_(values, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(compute)

        def result() -> Tile:
            done.synchronize()
            found: Tile = here.numpy()
            return found

        return result


def as_uint8(sums: Tensor, count: int) -> Tensor:
    """The mean of `count` levels as uint8, rounded half up, in integers alone."""
    values = torch.empty(sums.shape, dtype=torch.uint8, device=sums.device)
    whole = LEVELS * count
    for z in range(0, sums.shape[1], SLAB):
        scaled = sums[:, z : z + SLAB].to(torch.int64).mul_(2 * 255).add_(whole)
        values[:, z : z + SLAB] = scaled.div_(2 * whole, rounding_mode="floor")
    return values


def weighted_as_uint8(
    sums: npt.NDArray[np.int64], weights: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.uint8]:
    """Weighted sums (c, z, y, x) of levels over their weights (z, y, x) as uint8; 0 over 0 is 0."""
    values = np.zeros(sums.shape, np.uint8)
    for z in range(0, sums.shape[1], SLAB):
        whole = np.maximum(weights[z : z + SLAB], 1) * (LEVELS * count)
        values[:, z : z + SLAB] = (sums[:, z : z + SLAB] * (2 * 255) + whole) // (2 * whole)
    return values
